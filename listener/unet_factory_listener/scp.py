"""The service class provider: C-ECHO and C-STORE (PS3.4 annexes A and B) for the AE titles that are allowed."""

import errno
import io
import logging
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import Any

from pydicom import dcmread
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, _config, evt

from unet_factory.domain.uid_digest import uid_digest
from unet_factory.platform.logs import safe_traceback
from unet_factory_listener.options import ANYBODY, ListenerOptions
from unet_factory_listener.spool import Spool

log = logging.getLogger(__name__)

_VERIFICATION = "1.2.840.10008.1.1"
_UIDS = ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"]


class Status(IntEnum):
    """PS3.4 table B.2-1."""

    SUCCESS = 0x0000
    OUT_OF_RESOURCES = 0xA700
    CANNOT_UNDERSTAND = 0xC000


class Receiver:
    """Puts down what associations bring, and knows which series each of them has brought so far."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._lock = threading.Lock()
        self._brought: dict[Any, set[str]] = defaultdict(set)

    def store(self, event: evt.Event) -> int:
        """The status of a C-STORE: success only when the instance is on the disk."""
        try:
            content = event.encoded_dataset()
            header = dcmread(io.BytesIO(content), stop_before_pixels=True, specific_tags=list(_UIDS))
            study_uid, series_uid, instance_uid = (str(header.get(keyword) or "") for keyword in _UIDS)
        except Exception as error:
            log.warning("an instance cannot be read\n%s", safe_traceback(error))
            return Status.CANNOT_UNDERSTAND
        if not (study_uid and series_uid and instance_uid):
            return Status.CANNOT_UNDERSTAND
        series_id = uid_digest(study_uid, series_uid)
        with self._lock:
            self._brought[event.assoc].add(series_id)
        return self._put(series_id, uid_digest(instance_uid), content)

    def released(self, event: evt.Event) -> None:
        """Ended in good order: what it alone has brought needs to wait for no second try."""
        with self._lock:
            series_ids = self._brought.pop(event.assoc, set())
            still_open = set().union(*self._brought.values()) if self._brought else set()
        for series_id in series_ids - still_open:
            self._spool.close(series_id)

    def closed(self, event: evt.Event) -> None:
        """The connection is gone; if the association was not released before, its series stay open."""
        with self._lock:
            series_ids = self._brought.pop(event.assoc, set())
        if series_ids:
            log.warning("an association was cut off in the middle of %d series; they wait for more", len(series_ids))

    def _put(self, series_id: str, instance_id: str, content: bytes) -> int:
        try:
            self._spool.put(series_id, instance_id, content)
        except OSError as error:
            log.error("an instance cannot be written: %s", errno.errorcode.get(error.errno or 0, "OSError"))
            return Status.OUT_OF_RESOURCES
        return Status.SUCCESS


@contextmanager
def listening(options: ListenerOptions, spool: Spool) -> Iterator[None]:
    """A server that listens until the block ends.

    Raises:
        OSError: the port cannot be had.
        ValueError: an AE title is none.
    """
    _config.LOG_HANDLER_LEVEL = "none"  # its own event log quotes identifiers
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
    receiver = Receiver(spool)
    handlers: list[Any] = [
        (evt.EVT_C_STORE, receiver.store),
        (evt.EVT_RELEASED, receiver.released),
        (evt.EVT_ABORTED, receiver.closed),
        (evt.EVT_CONN_CLOSE, receiver.closed),
        (evt.EVT_REJECTED, _rejected),
    ]
    server = _entity(options).start_server((options.host, options.port), block=False, evt_handlers=handlers)
    assert server is not None
    try:
        yield
    finally:
        server.shutdown()


def _entity(options: ListenerOptions) -> AE:
    entity = AE(ae_title=options.ae_title)
    entity.require_called_aet = True
    if ANYBODY not in options.allowed:
        entity.require_calling_aet = list(options.allowed)
    entity.add_supported_context(_VERIFICATION)
    for context in AllStoragePresentationContexts:
        entity.add_supported_context(str(context.abstract_syntax), ALL_TRANSFER_SYNTAXES)
    return entity


def _rejected(_event: evt.Event) -> None:
    log.warning("an association was rejected: its AE title is not allowed, or it called another than ours")
