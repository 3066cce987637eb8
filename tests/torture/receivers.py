"""Where results go: a DICOMweb origin server and a webhook receiver on one port, which note all that they are given.

They can be told to refuse (503), to be silent, or to forget: to note what came and break the connection before the
sender learns of it, so that it must send again.
"""

import hashlib
import io
import json
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from pydicom import Dataset, dcmread
from standardwebhooks import Webhook

from tests.fixtures.webhook_receiver import SECRET
from tests.torture.history import History

_STORE_PATH = "/dicom-web/studies"
_JSON = "application/dicom+json"


class Mood(StrEnum):
    WILLING, REFUSING, SILENT, FORGETTING = "willing", "refusing", "silent", "forgetting"


class Receivers:
    """``mood`` may be changed at any time."""

    def __init__(self, history: History) -> None:
        self._history = history
        self.mood = Mood.WILLING
        self.port = 0
        self.ended = threading.Event()
        self._results: defaultdict[str, set[str]] = defaultdict(set)

    def results_of(self, study_uid: str) -> set[str]:
        """Modalities of what has come for a study."""
        return set(self._results[study_uid])

    def store(self, content_type: str, body: bytes) -> bytes:
        """Note the instances of a STOW-RS request; the answer to it."""
        instances = [dcmread(io.BytesIO(part)) for part in _parts(content_type, body)]
        for part, instance in zip(_parts(content_type, body), instances, strict=True):
            self._history.note("archive", "received", type="ok", **_described(instance, part))
            self._results[str(instance.StudyInstanceUID)].add(str(instance.Modality))
        stored = [{"00081155": {"vr": "UI", "Value": [str(one.SOPInstanceUID)]}} for one in instances]
        return json.dumps({"00081199": {"vr": "SQ", "Value": stored}}).encode()

    def call_back(self, headers: dict[str, str], body: bytes) -> None:
        told = Webhook(SECRET).verify(body, headers)
        self._history.note(
            "webhook",
            "called-back",
            type="ok",
            id=headers["webhook-id"],
            job=told["data"]["id"],
            state=told["data"]["state"],
            sha256=hashlib.sha256(body).hexdigest(),
        )


@contextmanager
def receivers(history: History) -> Iterator[Receivers]:
    found = Receivers(history)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"receivers": found}))
    server.daemon_threads = True
    found.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        found.ended.set()
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    receivers: Receivers

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        mood = self.receivers.mood
        if mood is Mood.SILENT:
            self.receivers.ended.wait(60)
            return
        if mood is Mood.REFUSING:
            self._answer(503, b"")
            return
        headers = {name.lower(): value for name, value in self.headers.items()}
        if self.path.startswith(_STORE_PATH):
            status, answer = 200, self.receivers.store(headers["content-type"], body)
        else:
            self.receivers.call_back(headers, body)
            status, answer = 204, b""
        if mood is not Mood.FORGETTING:
            self._answer(status, answer)

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", _JSON)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def _parts(content_type: str, body: bytes) -> list[bytes]:
    """Of a multipart/related body (RFC 2387)."""
    boundary = content_type.partition("boundary=")[2].partition(";")[0].strip('"').encode()
    parts = (b"\r\n" + body).split(b"\r\n--" + boundary)[1:-1]
    return [part.partition(b"\r\n\r\n")[2] for part in parts]


def _described(instance: Dataset, content: bytes) -> dict[str, object]:
    """What the checker needs: who it is, its bytes, its pixels, and of how many slices it speaks."""
    return {
        "study": str(instance.StudyInstanceUID),
        "modality": str(instance.Modality),
        "uid": str(instance.SOPInstanceUID),
        "sha256": hashlib.sha256(content).hexdigest(),
        **of_segmentation(instance),
    }


def of_segmentation(instance: Dataset) -> dict[str, object]:
    """Pixels and number of source slices of a SEG; nothing for another object."""
    if instance.Modality != "SEG":
        return {}
    (series,) = instance.ReferencedSeriesSequence
    return {
        "pixels": hashlib.sha256(instance.PixelData).hexdigest(),
        "slices": len(series.ReferencedInstanceSequence),
    }
