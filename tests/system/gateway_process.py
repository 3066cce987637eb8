"""A gateway alone as a real process."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.fixtures.settings import FactorySettings
from tests.system.processes import free_port, until
from unet_factory_service.settings import GatewaySettings

STARTS_WITHIN_S = 30.0

_RUN = """
import resource, sys
from unet_factory_service.app import run
from unet_factory_service.settings import GatewaySettings
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
hard = int(sys.argv[3]) or hard
resource.setrlimit(resource.RLIMIT_NOFILE, (min(128, hard), hard))
run(GatewaySettings.model_validate_json(sys.argv[1]), port=int(sys.argv[2]))
"""


@contextmanager
def gateway_process(
    settings: FactorySettings, log_file: Path, *, descriptors: int = 0, port: int = 0, **changes: Any
) -> Iterator[tuple[str, int]]:
    """Its address. ``descriptors`` is the most that it may have; 0: as many as the machine allows."""
    port = port or free_port()
    own = settings.model_dump(mode="json", include=set(GatewaySettings.model_fields), exclude_unset=True) | changes
    arguments = [GatewaySettings.model_validate(own).model_dump_json(exclude_unset=True), str(port)]
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", _RUN, *arguments, str(descriptors)], stdout=log, stderr=subprocess.STDOUT
        )
    try:
        until(lambda: answers("127.0.0.1", port, 10), STARTS_WITHIN_S)
        yield "127.0.0.1", port
    finally:
        process.kill()
        process.wait()


def answers(host: str, port: int, within_s: float) -> bool:
    """Whether ``/livez`` does."""
    try:
        return httpx.get(f"http://{host}:{port}/livez", timeout=within_s, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False
