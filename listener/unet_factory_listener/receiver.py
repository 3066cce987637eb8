"""C-STORE (PS3.4 annex B): answered with success when the instance lies in the spool and the gateway will store it."""

import errno
import logging
import shutil
import threading
from collections import defaultdict
from enum import IntEnum
from pathlib import Path
from typing import Any

from pynetdicom import evt

from unet_factory.domain.errors import FactoryError
from unet_factory.domain.uids import uid_digest
from unet_factory_listener.identity import DoesNotMatch, Identity, identify
from unet_factory_listener.spool import Spool

log = logging.getLogger(__name__)


class Status(IntEnum):
    """PS3.4 table B.2-1."""

    SUCCESS = 0x0000
    OUT_OF_RESOURCES = 0xA700
    DOES_NOT_MATCH = 0xA900
    CANNOT_UNDERSTAND = 0xC000


class Receiver:
    """Puts down what associations bring, and knows which series each of them has brought so far."""

    def __init__(self, spool: Spool, keep_free_bytes: int) -> None:
        self._spool, self._keep_free_bytes = spool, keep_free_bytes
        self._lock = threading.Lock()
        self._brought: dict[Any, set[str]] = defaultdict(set)

    def store(self, event: evt.Event) -> int:
        """The status of a C-STORE, whose data set the library has written to a file in the spool."""
        try:
            identity = identify(event.dataset_path)
        except DoesNotMatch as error:
            log.warning("an instance was refused (A900): %s", error)
            return Status.DOES_NOT_MATCH
        except FactoryError as error:
            log.warning("an instance was refused (C000): %s", error)
            return Status.CANNOT_UNDERSTAND
        series_id = uid_digest(identity.study_uid, identity.series_uid)
        with self._lock:
            self._brought[event.assoc].add(series_id)
        return self._put(series_id, identity, event.dataset_path)

    def released(self, event: evt.Event) -> None:
        """Ended in good order: what it alone has brought needs to wait for no second try."""
        with self._lock:
            series_ids = self._brought.pop(event.assoc, set())
            still_open = {one for other, brought in self._brought.items() if other.is_alive() for one in brought}
        for series_id in series_ids - still_open:
            self._spool.close(series_id)

    def closed(self, event: evt.Event) -> None:
        """The connection is gone; if the association was not released before, its series stay open."""
        with self._lock:
            series_ids = self._brought.pop(event.assoc, set())
        if series_ids:
            log.warning("an association was cut off in the middle of %d series; they wait for more", len(series_ids))

    def _put(self, series_id: str, identity: Identity, file: Path) -> int:
        try:
            if shutil.disk_usage(file.parent).free < self._keep_free_bytes:
                raise OSError(errno.ENOSPC, "less space is free than must be kept free")
            self._spool.put(series_id, uid_digest(identity.instance_uid), file)
        except OSError as error:
            reason = errno.errorcode.get(error.errno or 0, "OSError")
            log.error("an instance was refused (A700): it cannot be written to the spool (%s)", reason)
            return Status.OUT_OF_RESOURCES
        return Status.SUCCESS
