"""Peers that open connections and send half a request on each: others are answered meanwhile."""

import json
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import pytest

from tests.fixtures.settings import FactorySettings
from tests.system.processes import free_port, until

DESCRIPTORS = 400
PEERS = 900
STALLED_AFTER_S = 4.0
HALF = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX-Half: "

RUN = f"""
import resource, sys
from unet_factory_service.app import run
from unet_factory_service.settings import GatewaySettings
resource.setrlimit(resource.RLIMIT_NOFILE, (128, {DESCRIPTORS}))
run(GatewaySettings.model_validate_json(sys.argv[1]), port=int(sys.argv[2]))
"""

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]


@pytest.fixture
def address(settings: FactorySettings, tmp_path: Path) -> Iterator[tuple[str, int]]:
    """Of a gateway with few descriptors; its log is in ``log``."""
    port = free_port()
    own = {name: str(getattr(settings, name)) for name in ("redis_url", "blob_url", "models_dir")}
    arguments = json.dumps(own | {"stalled_after_s": STALLED_AFTER_S})
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-c", RUN, arguments, str(port)], stdout=log, stderr=log)
        try:
            until(lambda: answers("127.0.0.1", port, 10))
            yield "127.0.0.1", port
        finally:
            process.kill()
            process.wait()


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(before[0], min(2 * PEERS, before[1]))
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.usefixtures("many_descriptors")
def test_half_sent_requests_keep_nobody_from_an_answer(address: tuple[str, int], tmp_path: Path) -> None:
    with ExitStack() as stack:
        peers = []
        for _ in range(PEERS):
            peers.append(stack.enter_context(socket.create_connection(address, 10)))
            peers[-1].sendall(HALF)
        assert [answers(*address, 1.0) for _ in range(5)] == [True] * 5
        remaining = 0
        for peer in peers[-10:]:  # one who waits in vain is told so
            remaining += received(peer).startswith(b"HTTP/1.1 408")
        assert remaining == 10
    assert answers(*address, 1.0)
    log = (tmp_path / "log").read_text()
    assert len(log) < 5000, log[-5000:]
    assert "connections are open" in log


def test_trickled_headers_end_in_time_and_a_quick_one_is_answered(address: tuple[str, int]) -> None:
    with socket.create_connection(address, 20) as peer:
        whole = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
        peer.sendall(whole)
        assert peer.recv(4096).startswith(b"HTTP/1.1 200")
        started = time.monotonic()
        peer.sendall(HALF)
        with suppress(OSError):  # it is closed
            while time.monotonic() - started < 3 * STALLED_AFTER_S:
                peer.sendall(b"x")
                time.sleep(0.1)
        assert STALLED_AFTER_S - 0.5 < time.monotonic() - started < 2 * STALLED_AFTER_S


def test_a_connection_that_says_nothing_is_closed(address: tuple[str, int]) -> None:
    with socket.create_connection(address, 20) as peer:
        assert received(peer) == b""


def answers(host: str, port: int, within_s: float) -> bool:
    try:
        return httpx.get(f"http://{host}:{port}/livez", timeout=within_s, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def received(peer: socket.socket) -> bytes:
    """All that comes until the other side closes."""
    found = b""
    while piece := peer.recv(4096):
        found += piece
    return found
