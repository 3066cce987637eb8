"""TCP connections below the DICOM protocol: how many may wait, how long they may take, how much they may send.

pynetdicom gives each connection an association of its own at once, reads a PDU of any announced length, and waits
for the rest of it without end. Here a connection has to say something before it costs more than a socket and a
sleeping thread; each PDU has a longest length and a deadline, and each message a size.
"""

import logging
import socket
import struct
import threading
import time
from contextlib import suppress
from typing import Any

from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.transport import AssociationSocket, RequestHandler, ThreadedAssociationServer

from unet_factory.platform.logs import safe_traceback

log = logging.getLogger(__name__)

ARTIM_S = 15.0  # from the connection to the whole association request (PS3.8 section 9.1.5)
LONGEST_PDU_BYTES = 2**18  # of any type; an association request for all storage classes has about 160 KiB
_WAITING = 64  # connections that have not asked for an association yet
_PDU_WITHIN_S = 30.0  # from its first byte to its last
_AFTER_THE_END_S = 1.0  # for what still comes after a refusal
_CLOSING = "Sta13"  # waiting for the connection to close, PS3.8 table 9-5
_CHUNK_BYTES = 2**16
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # struct linger, socket(7)


class WaitingRoom:
    """Connections that have not asked for an association. When it is full, the one that came first has to go.

    So neither probes nor idle or half-sent connections, however many, keep out one that asks at once.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[socket.socket, None] = {}

    def enter(self, connection: socket.socket) -> None:
        with self._lock:
            self._waiting = {one: None for one in self._waiting if one.fileno() >= 0} | {connection: None}
            first = next(iter(self._waiting)) if len(self._waiting) > _WAITING else None
            if first is not None:
                del self._waiting[first]
        if first is not None:
            log.warning("a connection without a request was closed: more than %d others wait as well", _WAITING)
            hang_up(first)

    def leave(self, connection: socket.socket | None) -> None:
        with self._lock:
            if connection is not None:
                self._waiting.pop(connection, None)


class Server(ThreadedAssociationServer):
    """Hears each connection in a thread of its own, by :class:`FirstByte`."""

    daemon_threads = True
    request_queue_size = 128  # with pynetdicom's 5, connections are dropped when many modalities begin at once

    def __init__(self, *args: Any, **options: Any) -> None:
        self.waiting_room = WaitingRoom()
        super().__init__(*args, **(options | {"request_handler": FirstByte}))

    def handle_error(self, _request: Any, client_address: Any) -> None:
        log.exception("a connection from %s failed", client_address[0])

    def shutdown(self) -> None:
        """Take no new connections, and cut off those that there are: the process is to end."""
        super().shutdown()
        for association in self.active_associations:
            hang_up(socket_of(association))


class Entity(AE):
    """An application entity whose servers are of the class above."""

    def make_server(self, *args: Any, **options: Any) -> Any:
        return super().make_server(*args, **(options | {"server_class": Server}))


class FirstByte(RequestHandler):
    """Makes an association of a connection only when its first byte is there: probes connect and close."""

    server: Server
    request: socket.socket

    def handle(self) -> None:
        self.server.waiting_room.enter(self.request)
        self.request.settimeout(ARTIM_S)
        try:
            has_spoken = bool(self.request.recv(1, socket.MSG_PEEK))
        except OSError:  # also: nothing came in time
            has_spoken = False
        if has_spoken:
            super().handle()
        else:
            self.server.waiting_room.leave(self.request)
            self.server.shutdown_request(self.request)


class BoundedSocket(AssociationSocket):
    """Takes over the socket of an association; what is too long or too slow reads as a lost connection."""

    def __init__(self, accepted: AssociationSocket) -> None:
        vars(self).update(vars(accepted))

    @property
    def ready(self) -> bool:
        """Whether there is something to read, and nothing that was read still waits for the state machine.

        The library would go on reading behind a header that it does not know, before it acts on it.
        """
        return self.event_queue.empty() and super().ready

    def recv(self, nr_bytes: int) -> bytearray:
        """As the library's, within ``_PDU_WITHIN_S``.

        Raises:
            OSError: the connection is lost, more than ``LONGEST_PDU_BYTES`` are asked for, or they do not come in time.
        """
        if nr_bytes > LONGEST_PDU_BYTES:
            message = "a PDU of %d bytes was announced, but at most %d are allowed; the connection from %s was closed"
            log.warning(message, nr_bytes, LONGEST_PDU_BYTES, peer_of(self.assoc))
            raise OSError("the PDU is too long")
        is_over = self.assoc.dul.state_machine.current_state == _CLOSING
        received, deadline = bytearray(), time.monotonic() + (_AFTER_THE_END_S if is_over else _PDU_WITHIN_S)
        while self.socket is not None and len(received) < nr_bytes:
            self.socket.settimeout(max(deadline - time.monotonic(), 0.001))
            chunk = self.socket.recv(min(_CHUNK_BYTES, nr_bytes - len(received)))
            if not chunk:
                break
            received += chunk
        return received

    def close(self) -> None:
        """As the library's, which leaves a socket open when the peer, or :func:`hang_up`, has shut it down before."""
        connection = self.socket
        super().close()
        if connection is not None:
            connection.close()


def bound(event: evt.Event) -> None:
    """On a new connection: from here on its PDUs are bounded."""
    accepted = event.assoc.dul.socket
    assert accepted is not None
    event.assoc.dul.socket = BoundedSocket(accepted)


def leave_waiting_room(event: evt.Event) -> None:
    """On an association request: it may take its time from here on."""
    server = event.assoc._server
    assert isinstance(server, Server)
    server.waiting_room.leave(socket_of(event.assoc))


def stop_waiting(event: evt.Event) -> None:
    """On a closed connection: an association that has heard no request so far would wait for one until its timeout."""
    if event.assoc.requestor.primitive is None:
        waited_for: Any = event.assoc.dul.to_user_queue
        waited_for.put(None)


def hang_up(connection: socket.socket | None) -> None:
    """Wakes whoever reads from it, to close it; its peer is told at once, whatever it still sends."""
    if connection is not None:
        with suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            connection.shutdown(socket.SHUT_RD)


def socket_of(association: Association) -> socket.socket | None:
    """None when it is closed."""
    wrapped = association.dul.socket
    return None if wrapped is None else wrapped.socket


def peer_of(association: Association) -> str:
    """The address that it comes from."""
    address = association.requestor.address_info
    return address.address if address else "unknown"


def log_lost_thread(failed: threading.ExceptHookArgs) -> None:
    """For ``threading.excepthook``: the library's threads end with errors whose text may quote what was sent."""
    if failed.exc_value is not None:
        log.error("a connection was closed after an error\n%s", safe_traceback(failed.exc_value))
