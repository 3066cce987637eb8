"""Modalities get in whatever others do to the port, and nobody makes the listener keep more than its bounds."""

import socket
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress

import pytest

from tests.fixtures.dicom_files import mr_series
from tests.listener.peer import ACCEPTED, asked, association, connected, id_of, request, send
from unet_factory_listener import connections, messages
from unet_factory_listener.options import ListenerOptions
from unet_factory_listener.spool import Spool

MANY = 150  # more than may wait
PROMPTLY_S = 5.0
MODALITIES = 32
FOUR_GIB = 0xFFFFFFFF
P_DATA, UNKNOWN_PDU = 0x04, 0x55

pytestmark = pytest.mark.usefixtures("spool")


def test_connections_that_close_without_a_word_cost_no_place(options: ListenerOptions) -> None:
    for _ in range(MANY):
        connected(options).close()
    assert_accepted_promptly(options)


@pytest.mark.parametrize("said", [b"", request()[:1], request()[:30]], ids=["nothing", "a byte", "half a request"])
def test_connections_that_never_finish_asking_keep_nobody_out(options: ListenerOptions, said: bytes) -> None:
    with ExitStack() as opened:
        for _ in range(MANY):
            peer = opened.enter_context(connected(options))
            with suppress(OSError):  # it may have been closed already, to make room
                peer.sendall(said)
        assert_accepted_promptly(options)


def test_thirty_two_modalities_send_at_once(spool: Spool, options: ListenerOptions) -> None:
    series = [mr_series(slices=2, seed=index) for index in range(MODALITIES)]
    with ExitStack() as opened:
        senders = [opened.enter_context(association(options)) for _ in series]
        with ThreadPoolExecutor(MODALITIES) as pool:
            statuses = list(
                pool.map(lambda pair: [send(pair[0], one) for one in pair[1]], zip(senders, series, strict=True))
            )
        assert statuses == [[0, 0]] * MODALITIES
    assert all(len(spool.files(id_of(one))) == 2 for one in series)


def test_a_connection_is_closed_when_it_asks_for_nothing(
    options: ListenerOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "ARTIM_S", 0.2)
    with connected(options) as idle:
        idle.settimeout(PROMPTLY_S)
        assert idle.recv(1) == b""


def test_a_request_that_trickles_in_is_cut_off(options: ListenerOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_PDU_WITHIN_S", 0.5)
    with connected(options) as slow:
        slow.settimeout(0.1)
        started = time.monotonic()
        with suppress(ConnectionError):
            for byte in request():
                slow.sendall(bytes([byte]))
                with suppress(TimeoutError):
                    assert slow.recv(16) == b""
                    break
    assert time.monotonic() - started < PROMPTLY_S


@pytest.mark.parametrize("is_associated", [False, True])
def test_a_pdu_that_claims_4_gib_is_not_read(
    options: ListenerOptions, is_associated: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with connected(options) as hostile:
        if is_associated:
            hostile.sendall(request())
            assert hostile.recv(4096)[0] == ACCEPTED
        hostile.sendall(struct.pack(">BBI", P_DATA if is_associated else 1, 0, FOUR_GIB))
        with pytest.raises(ConnectionError):
            send_all(hostile, [bytes(2**20)] * 64)
    assert f"{FOUR_GIB} bytes was announced" in caplog.text
    assert_accepted_promptly(options)


def test_a_command_that_never_ends_is_cut_off(options: ListenerOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "_IN_MEMORY_BYTES", 2**16)
    fragment = struct.pack(">IBB", 2**12 + 2, 1, 0b01) + bytes(2**12)  # of a command, not the last
    pdu = struct.pack(">BBI", P_DATA, 0, len(fragment)) + fragment
    with connected(options) as hostile:
        hostile.sendall(request())
        assert hostile.recv(4096)[0] == ACCEPTED
        with pytest.raises(ConnectionError):
            send_all(hostile, [pdu] * 2**12)


@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\n\r\n", bytes([UNKNOWN_PDU, 0, 0, 0, 0, 4]) + bytes(4)])
def test_what_is_no_dicom_is_closed_with_a_word_in_the_log(
    options: ListenerOptions, said: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with connected(options) as peer:
        peer.settimeout(PROMPTLY_S)
        peer.sendall(said)
        while peer.recv(4096):
            pass
    assert "not a valid DICOM PDU" in caplog.text


def send_all(peer: socket.socket, pieces: list[bytes]) -> None:
    for piece in pieces:
        peer.sendall(piece)


def assert_accepted_promptly(options: ListenerOptions) -> None:
    started = time.monotonic()
    assert asked(options)[0] == ACCEPTED
    assert time.monotonic() - started < PROMPTLY_S
