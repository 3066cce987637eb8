"""Bounds on one association: pynetdicom collects a message for as long as its sender says that more follows."""

import logging
from collections import defaultdict
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.dimse_messages import C_STORE_RQ
from pynetdicom.pdu import P_DATA_TF

from unet_factory_listener.connections import hang_up, peer_of, socket_of

log = logging.getLogger(__name__)

_IN_MEMORY_BYTES = 2**20  # of one message; the data sets of C-STORE requests go to the disk
_UNANSWERED = 16  # messages; a peer waits for each answer unless it has negotiated otherwise (PS3.7 section D.3.3.3)
_COMMAND = 0b1  # in the control header of a fragment, PS3.8 section E.2


class MessageBounds:
    """Cuts off who sends a message of more than ``max_bytes``, a command that never ends, or more than is answered."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._received: WeakKeyDictionary[Association, dict[bool, int]] = WeakKeyDictionary()
        self._cut: WeakSet[Association] = WeakSet()

    def fragment(self, event: evt.Event) -> None:
        """Counts the fragments of a PDU towards the message that they belong to."""
        if not isinstance(event.pdu, P_DATA_TF):
            return
        counts = self._received.setdefault(event.assoc, defaultdict(int))
        is_on_disk = isinstance(event.assoc.dimse.message, C_STORE_RQ)
        for item in event.pdu.presentation_data_value_items:
            fragment: Any = item.presentation_data_value
            is_command = not fragment or bool(fragment[0] & _COMMAND)
            counts[is_on_disk and not is_command] += len(fragment)
        if counts[True] > self._max_bytes:
            self._cut_off(event.assoc, f"an instance has more than {self._max_bytes} bytes, which is the limit")
        elif counts[False] > _IN_MEMORY_BYTES:
            self._cut_off(event.assoc, f"a command has more than {_IN_MEMORY_BYTES} bytes, which is the limit")

    def complete(self, event: evt.Event) -> None:
        self._received.pop(event.assoc, None)
        if event.assoc.dimse.msg_queue.qsize() >= _UNANSWERED:
            self._cut_off(event.assoc, f"{_UNANSWERED} of its messages wait for their answers, which is the limit")

    def closed(self, event: evt.Event) -> None:
        """The library leaves the file of a message that was not completed open, and in the way."""
        message = event.assoc.dimse.message
        if message is not None and message._data_set_file is not None:
            message._data_set_file.close()
            Path(message._data_set_file.name).unlink(missing_ok=True)

    def _cut_off(self, association: Association, reason: str) -> None:
        if association in self._cut:
            return
        self._cut.add(association)
        log.warning("the association with %s was cut off: %s", peer_of(association), reason)
        hang_up(socket_of(association))
