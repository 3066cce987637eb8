"""A factory of the demo's own: on a free port, in a temporary folder, stopped at the end."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from unet_factory_cli.failures import CommandFailed
from unet_factory_cli.processes import die_with_parent, end_group
from unet_factory_client import FactoryClient

READY_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 20.0

_KEPT_SETTINGS = ("UNET_FACTORY_DEVICE",)
_LOG_TAIL_LINES = 15


@contextmanager
def running_service(folder: Path, models_dir: Path) -> Iterator[FactoryClient]:
    """A client of a factory that is ready.

    Raises:
        CommandFailed: it did not become ready, with the end of its log, or did not stop as it should.
    """
    port, log = _free_port(), folder / "serve.log"
    arguments = ["serve", "--port", str(port), "--data-dir", str(folder / "data"), "--models", str(models_dir)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "unet_factory_cli", *arguments],
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            process_group=0,
            preexec_fn=die_with_parent,
        )
    try:
        with FactoryClient(f"http://127.0.0.1:{port}") as client:
            _await_ready(client, process, log)
            yield client
    finally:
        end_group(process, STOP_TIMEOUT_S)
    if process.returncode:
        raise CommandFailed(f"the factory exited with code {process.returncode}:\n{_tail(log)}")


def _await_ready(client: FactoryClient, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    while not client.ready():
        if process.poll() is not None or time.monotonic() > deadline:
            raise CommandFailed(f"the factory did not become ready:\n{_tail(log)}")
        time.sleep(0.2)


def _environment() -> dict[str, str]:
    """Without the caller's settings, which are for a factory of theirs; where to compute stays their choice."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("UNET_FACTORY_") or name in _KEPT_SETTINGS
    }
    return kept | {"UNET_FACTORY_THREADS": str(threads())}


def threads() -> int:
    """CPU threads of the worker; equal answers to the last bit want as many elsewhere."""
    return int(os.environ.get("UNET_FACTORY_THREADS", "0")) or os.cpu_count() or 1


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-_LOG_TAIL_LINES:])
