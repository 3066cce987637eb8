"""The service class provider: C-ECHO and C-STORE (PS3.4 annexes A and B) for the AE titles that are allowed.

What pynetdicom leaves to its defaults is decided here, by its own settings and events.
"""

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, _config, evt

from unet_factory_listener.admission import Admission, valid_title
from unet_factory_listener.connections import ARTIM_S, Entity, bound, leave_waiting_room, stop_waiting
from unet_factory_listener.messages import MessageBounds
from unet_factory_listener.options import ANYBODY, ListenerOptions
from unet_factory_listener.receiver import Receiver
from unet_factory_listener.spool import Spool

_VERIFICATION = "1.2.840.10008.1.1"
_IDLE_S = 60.0  # an association without a PDU is aborted
_ANNOUNCED_PDU_BYTES = 2**17  # as long as the most common toolkits send; the library's 16 KiB make slow transfers
_ANY_NUMBER = 2**16  # the library counts threads that are about to end; Admission counts associations
_LIBRARY = {
    "LOG_HANDLER_LEVEL": "none",  # its own event log quotes identifiers
    "STORE_RECV_CHUNKED_DATASET": True,  # to a file as it comes, never into memory
    "UNRESTRICTED_STORAGE_SERVICE": True,  # private classes too: some senders give up a study at the first refusal
    "CODECS": ("ascii", "latin-1"),  # a title with other characters is refused as unknown, not as unreadable
    "VALIDATORS": {**_config.VALIDATORS, "AE": valid_title},
}


@contextmanager
def listening(options: ListenerOptions, spool: Spool) -> Iterator[None]:
    """A server that listens until the block ends.

    Raises:
        OSError: the port cannot be had.
        ValueError: an AE title is not valid.
    """
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
    receiver = Receiver(spool, options.keep_free_bytes)
    admission = Admission()
    bounds = MessageBounds(options.max_instance_bytes)
    handlers: list[Any] = [
        (evt.EVT_CONN_OPEN, bound),
        (evt.EVT_REQUESTED, leave_waiting_room),
        (evt.EVT_REQUESTED, admission.requested),
        (evt.EVT_ESTABLISHED, admission.established),
        (evt.EVT_REJECTED, admission.rejected),
        (evt.EVT_FSM_TRANSITION, admission.garbled),
        (evt.EVT_PDU_RECV, bounds.fragment),
        (evt.EVT_DIMSE_RECV, bounds.complete),
        (evt.EVT_C_STORE, receiver.store),
        (evt.EVT_RELEASED, receiver.released),
        (evt.EVT_ABORTED, receiver.closed),
        (evt.EVT_CONN_CLOSE, receiver.closed),
        (evt.EVT_CONN_CLOSE, bounds.closed),
        (evt.EVT_CONN_CLOSE, stop_waiting),
    ]
    with _library_set_up(spool):
        server = _entity(options).start_server((options.host, options.port), block=False, evt_handlers=handlers)
        assert server is not None
        try:
            yield
        finally:
            server.shutdown()


def _entity(options: ListenerOptions) -> AE:
    entity = Entity(ae_title=options.ae_title)
    entity.require_called_aet = True
    if ANYBODY not in options.allowed:
        entity.require_calling_aet = list(options.allowed)
    entity.maximum_associations = _ANY_NUMBER
    entity.maximum_pdu_size = _ANNOUNCED_PDU_BYTES
    entity.acse_timeout = ARTIM_S
    entity.network_timeout = _IDLE_S
    entity.add_supported_context(_VERIFICATION, ALL_TRANSFER_SYNTAXES)
    return entity


@contextmanager
def _library_set_up(spool: Spool) -> Iterator[None]:
    """Its settings, and where it writes what it receives, are the process's; they are as before after the block."""
    before = {name: getattr(_config, name) for name in _LIBRARY}, tempfile.tempdir
    for name, value in _LIBRARY.items():
        setattr(_config, name, value)
    tempfile.tempdir = str(spool.incoming)
    try:
        yield
    finally:
        settings, tempfile.tempdir = before
        for name, value in settings.items():
            setattr(_config, name, value)
