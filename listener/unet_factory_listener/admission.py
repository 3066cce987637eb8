"""Who may have an association, and for what (PS3.8 section 9.3); a refusal is answered and logged with its reason."""

import logging
import threading
from collections.abc import Iterable
from typing import Any

from pydicom.uid import UID, AllTransferSyntaxes, MPEGTransferSyntaxes
from pynetdicom import _config, evt
from pynetdicom.association import Association

from unet_factory_listener.connections import peer_of

log = logging.getLogger(__name__)

ASSOCIATIONS = 64
_TRANSIENT, _BY_PRESENTATION, _LOCAL_LIMIT = 0x02, 0x03, 0x02  # result, source and reason, PS3.8 table 9-21
_REASONS = {
    (0x01, 0x03): "its AE title is not allowed by --allow",
    (0x01, 0x07): "it called an AE title other than the listener's",
    (_BY_PRESENTATION, _LOCAL_LIMIT): "the allowed number of associations is already open",
}
_READABLE = frozenset(AllTransferSyntaxes) - frozenset(MPEGTransferSyntaxes)
_strictly_valid_title = _config.VALIDATORS["AE"]


class Admission:
    """Handlers of the library's events between connection and association."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: set[Association] = set()

    def requested(self, event: evt.Event) -> None:
        """Before the library negotiates: is there a place? Titles and transfer syntaxes are put as it expects them."""
        association = event.assoc
        request: Any = association.requestor.primitive
        request.calling_ae_title = title(request.calling_ae_title)
        request.called_ae_title = title(request.called_ae_title)
        for context in request.presentation_context_definition_list:
            context.transfer_syntax = readable_first(context.transfer_syntax)
        if self._is_full():
            association.acse.send_reject(_TRANSIENT, _BY_PRESENTATION, _LOCAL_LIMIT)
            self.rejected(event)
            association.kill()

    def established(self, event: evt.Event) -> None:
        with self._lock:
            self._open.add(event.assoc)

    def rejected(self, event: evt.Event) -> None:
        """The library, or this class, has said no."""
        answer: Any = event.assoc.acceptor.primitive
        request: Any = event.assoc.requestor.primitive
        reason = _REASONS.get((answer.result_source, answer.diagnostic), "the library gave no reason")
        caller = request.calling_ae_title
        log.warning("an association with %s at %s was rejected: %s", caller, peer_of(event.assoc), reason)

    def garbled(self, event: evt.Event) -> None:
        """On each step of the protocol's state machine: event 19 is a PDU that cannot be read (PS3.8 table 9-10)."""
        if event.fsm_event == "Evt19":
            log.warning("a connection from %s was aborted: what it sent is not a valid DICOM PDU", peer_of(event.assoc))

    def _is_full(self) -> bool:
        with self._lock:
            self._open = {association for association in self._open if association.is_alive()}
            return len(self._open) >= ASSOCIATIONS


def title(sent: str) -> str:
    """An AE title without its padding: spaces (PS3.8 table 9-11), or NULs, as from programs that send C strings."""
    return sent.partition("\0")[0].strip() or "(empty)"


def valid_title(sent: str) -> tuple[bool, str]:
    """The library's check of an AE title, which would refuse NULs: whether it is valid, and why not."""
    return _strictly_valid_title(title(sent))


def readable_first(syntaxes: Iterable[UID]) -> list[UID]:
    """In the sender's order, but those that nobody here could read last: the library accepts the first one."""
    return sorted(syntaxes, key=lambda syntax: syntax not in _READABLE)
