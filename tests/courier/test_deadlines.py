"""An archive that drips bytes outlasts every timeout for a single read, yet not the deadline of an attempt."""

import gc
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from pydicom.uid import generate_uid

from tests.fixtures.dicom_files import mr_series, saved
from unet_factory.destinations import DicomWeb, Dimse
from unet_factory.domain.jobs import PacsSeries
from unet_factory_courier import dicomweb, dimse
from unet_factory_courier.outcomes import TryAgain

DRIP_EVERY_S, TIMEOUT_S, DEADLINE_S = 0.1, 1.0, 2.0
GIVES_UP_WITHIN_S = DEADLINE_S + 3.0
SERIES = PacsSeries(pacs="main", study_uid=generate_uid(), series_uid=generate_uid())
HTTP_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: "
HTTP_BODY = (
    b"HTTP/1.1 200 OK\r\nContent-Type: multipart/related; type=application/dicom; boundary=b\r\n"
    b"Content-Length: 100000\r\n\r\n--b\r\nContent-Type: application/dicom\r\n\r\n"
)
ASSOCIATE_ACCEPT = b"\x02\x00\x00\x01\x00\x00"  # announces 64 KiB

Attempt = Callable[[int, Path], object]


def store_by_stow(port: int, folder: Path) -> None:
    dicomweb.store(web(port), saved(mr_series(1), folder))


def fetch(port: int, folder: Path) -> list[Path]:
    return dicomweb.fetch(web(port), SERIES, folder, 2**20)


def count(port: int, _: Path) -> int:
    return dicomweb.announced_instances(web(port), SERIES)


def store_by_dimse(port: int, folder: Path) -> None:
    archive = Dimse(host="127.0.0.1", port=port, called_aet="X", timeout_s=TIMEOUT_S, deadline_s=DEADLINE_S)
    dimse.store(archive, saved(mr_series(1), folder))


def web(port: int) -> DicomWeb:
    return DicomWeb(url=f"http://127.0.0.1:{port}", timeout_s=TIMEOUT_S, deadline_s=DEADLINE_S)


@pytest.mark.timeout(30)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # libraries leave sockets to gc
@pytest.mark.parametrize(
    ("attempt", "beginning"),
    [
        (store_by_stow, HTTP_HEAD),
        (fetch, HTTP_HEAD),
        (fetch, HTTP_BODY),
        (count, HTTP_HEAD),
        (store_by_dimse, ASSOCIATE_ACCEPT),
    ],
)
def test_an_archive_that_drips_is_given_up_at_the_deadline(tmp_path: Path, attempt: Attempt, beginning: bytes) -> None:
    with dripping(beginning) as port:
        began = time.monotonic()
        with pytest.raises(TryAgain, match="took longer than 2 s"):
            attempt(port, tmp_path)
        assert DEADLINE_S <= time.monotonic() - began < GIVES_UP_WITHIN_S
    gc.collect()


@contextmanager
def dripping(beginning: bytes) -> Iterator[int]:
    """A server that after this sends a byte now and then, and never ends."""
    stop = threading.Event()

    def drip(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.sendall(beginning)
            while True:
                connection.sendall(b"x")
                if stop.wait(DRIP_EVERY_S):
                    return

    def serve(listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=drip, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        acceptor = threading.Thread(target=serve, args=(listener,), daemon=True)
        acceptor.start()
        yield int(listener.getsockname()[1])
        stop.set()
        listener.shutdown(socket.SHUT_RDWR)
        acceptor.join()
