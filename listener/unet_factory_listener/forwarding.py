"""From the spool to the gateway by STOW-RS, at least once: a file leaves the spool when the gateway has it.

Sending an instance twice is harmless there, so whatever is in doubt is sent again.
"""

import logging
import secrets
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice

import httpx
import stamina

from unet_factory.domain.jobs import Origin
from unet_factory.domain.loopback import is_loopback
from unet_factory.domain.uids import uid_digest
from unet_factory.platform.following import following
from unet_factory.platform.logs import log_field, safe_traceback
from unet_factory.platform.outages import outages
from unet_factory.platform.tracing import trace_headers
from unet_factory_listener.options import ListenerOptions
from unet_factory_listener.spool import Spool, SpooledFile

log = logging.getLogger(__name__)

_LOOK_EVERY_S = 0.2
_BATCH = 200  # instances in a request
_BATCH_BYTES = 256 * 2**20
_RETRY_FOR_S = 20.0
_PAUSE_S = 10.0
_TIMEOUT = httpx.Timeout(120.0, connect=5.0)
_CHUNK_BYTES = 2**20
_PASSING = {401, 403, 404, 408, 429}  # an operator's mistake, or a matter of time
_SOP_INSTANCE, _REFERENCED, _FAILED, _REASON = "00081155", "00081199", "00081198", "00081197"
_PASSING_REASONS = (0x0110, 0xA700)


class GatewayAway(Exception):
    """It did not answer, or not for these instances; they are sent again."""


class Forwarder:
    """One thread; series that cannot be forwarded now do not hold up the others."""

    def __init__(self, spool: Spool, options: ListenerOptions) -> None:
        self._spool, self._options = spool, options
        url = httpx.URL(options.gateway_url.rstrip("/"))
        headers = {"Accept": "application/dicom+json"}
        if options.api_key:
            headers["Authorization"] = f"Bearer {options.api_key}"
        self._http = httpx.Client(base_url=url, headers=headers, timeout=_TIMEOUT, trust_env=not is_loopback(url.host))
        self._not_before: dict[str, float] = {}

    def run(self, stop: threading.Event) -> None:
        """Until ``stop``; what is in hand then is sent again after the next start."""
        while not stop.wait(_LOOK_EVERY_S):
            try:
                self.run_once(stop)
            except Exception as error:
                log.error("forwarding failed; it will be tried again\n%s", safe_traceback(error))

    def run_once(self, stop: threading.Event) -> None:
        self._spool.tidy(self._options.keep_refused_s)
        for series_id in self._spool.complete(self._options.quiet_s, self._options.after_abort_s):
            if stop.is_set():
                return
            if time.monotonic() < self._not_before.get(series_id, 0.0):
                continue
            self._not_before.pop(series_id, None)
            with following(Origin(request_id=uuid.uuid4().hex), "forward a series", "client"):
                try:
                    self._forward(series_id)
                except (GatewayAway, httpx.TransportError):
                    self._not_before[series_id] = time.monotonic() + _PAUSE_S

    def _forward(self, series_id: str) -> None:
        files = self._spool.files(series_id)
        for batch in _batches(files):
            self._settle(batch, self._send(batch))
        log.info("a series of %d instances was forwarded", len(files))

    def _send(self, batch: Sequence[SpooledFile]) -> httpx.Response:
        for attempt in stamina.retry_context(
            (GatewayAway, httpx.TransportError), attempts=None, timeout=_RETRY_FOR_S, wait_max=5.0
        ):
            with attempt, self._outages_told():
                return self._post(batch)
        raise AssertionError("the last attempt raises")

    @contextmanager
    def _outages_told(self) -> Iterator[None]:
        try:
            yield
        except (GatewayAway, httpx.TransportError) as error:
            outages.failed(f"the gateway at {self._http.base_url}", error)
            raise
        outages.answered(f"the gateway at {self._http.base_url}")

    def _post(self, batch: Sequence[SpooledFile]) -> httpx.Response:
        boundary = secrets.token_hex(16)
        content_type = f'multipart/related; type="application/dicom"; boundary={boundary}'
        headers = {"Content-Type": content_type, "X-Request-ID": log_field("request")} | trace_headers()
        answer = self._http.post("/dicomweb/studies", content=_body(batch, boundary), headers=headers)
        if answer.status_code in _PASSING or answer.status_code >= 500:
            raise GatewayAway(f"it answered {answer.status_code}")
        return answer

    def _settle(self, batch: Sequence[SpooledFile], answer: httpx.Response) -> None:
        """Remove what is stored there, put aside what never will be, keep the rest.

        Raises:
            GatewayAway: some are to be sent again.
        """
        told = answer.json() if answer.status_code in (200, 202, 409) else {}
        stored = {uid_digest(_value(item, _SOP_INSTANCE)) for item in told.get(_REFERENCED, {}).get("Value", [])}
        self._spool.remove(file for file in batch if file.instance_id in stored)
        again = {
            uid_digest(_value(item, _SOP_INSTANCE))
            for item in told.get(_FAILED, {}).get("Value", [])
            if _value(item, _REASON) in map(str, _PASSING_REASONS)
        }
        refused = [file for file in batch if file.instance_id not in stored | again]
        if refused:
            log.error("the gateway refused %d instances (status %d)", len(refused), answer.status_code)
            self._spool.refuse(refused)
        if again:
            raise GatewayAway(f"it could not store {len(again)} instances now")


def _batches(files: Sequence[SpooledFile]) -> Iterator[list[SpooledFile]]:
    """In requests of bounded size; an instance larger than that goes alone."""
    waiting = iter(files)
    while batch := list(islice(waiting, _BATCH)):
        part: list[SpooledFile] = []
        size = 0
        for file in batch:
            n_bytes = file.path.stat().st_size
            if part and size + n_bytes > _BATCH_BYTES:
                yield part
                part, size = [], 0
            part.append(file)
            size += n_bytes
        yield part


def _body(batch: Sequence[SpooledFile], boundary: str) -> Iterator[bytes]:
    for file in batch:
        yield f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        with file.path.open("rb") as opened:
            while chunk := opened.read(_CHUNK_BYTES):
                yield chunk
        yield b"\r\n"
    yield f"--{boundary}--\r\n".encode()


def _value(item: dict[str, dict[str, list[object]]], tag: str) -> str:
    values = item.get(tag, {}).get("Value", [])
    return str(values[0]) if values else ""
