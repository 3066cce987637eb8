"""Peers that open connections and send half a request on each: others are answered meanwhile."""

import resource
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.fixtures.settings import FactorySettings
from tests.system.gateway_process import answers, gateway_process
from unet_factory_service.page.assets import load_assets

DESCRIPTORS = 400
PEERS = 900
STALLED_AFTER_S = 4.0
LARGE, REQUESTS = "vendor/niivue/index.js", 40  # far more than the kernel holds for a connection
HALF = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX-Half: "

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]


@pytest.fixture
def address(settings: FactorySettings, tmp_path: Path) -> Iterator[tuple[str, int]]:
    """Of a gateway with few descriptors; its log is in ``log``."""
    settings = settings.model_copy(update={"stalled_after_s": STALLED_AFTER_S})
    with gateway_process(settings, tmp_path / "log", descriptors=DESCRIPTORS) as address:
        yield address


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


@pytest.mark.parametrize("takes", [False, True], ids=["nothing", "a little at a time"])
def test_an_answer_is_kept_for_a_peer_only_while_it_takes_some_of_it(address: tuple[str, int], takes: bool) -> None:
    assets = load_assets()
    path = f"/assets/{assets.digest}/{LARGE}"
    whole_bytes = REQUESTS * len(assets.by_path[LARGE].read())
    with socket.create_connection(address, 20) as peer:
        peer.sendall(b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n" % path.encode() * REQUESTS)
        found, until = 0, time.monotonic() + 2 * STALLED_AFTER_S
        while time.monotonic() < until:
            time.sleep(0.2)
            if takes:
                found += len(peer.recv(2**18))
        found += len(received(peer))
    assert (found > whole_bytes) is takes


def received(peer: socket.socket) -> bytes:
    """All that comes until the other side closes."""
    found = bytearray()
    with suppress(ConnectionError):
        while piece := peer.recv(2**16):
            found += piece
    return bytes(found)
