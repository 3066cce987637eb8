"""Open connections: how many there may be, and how long one may take to say what it wants and to take its answer.

A peer that opens connections and sends half a request on each costs a descriptor for each, and one that does not read
its answer the memory of it. So a request's headers must
come in time, and where too many connections are open the one that has waited longest gives way to the new one: it has
either said nothing yet or has its answer already. A connection whose request is being worked on is never given up.
"""

import asyncio
import logging
import resource
import socket
from typing import Any, NamedTuple, Self

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from unet_factory_service.settings import GatewaySettings

log = logging.getLogger(__name__)

BACKLOG = 128  # accepted at a stroke, before any of them can be refused

_OTHER_DESCRIPTORS = 64  # stores, logs, the metrics' files
_TCP = (socket.AF_INET, socket.AF_INET6)
_TOO_SLOW = "the request's headers did not arrive in time"


class ConnectionLimits(NamedTuple):
    """``stalled_s``: within which a request's headers must have come, and a peer must take more of its answer."""

    connections: int
    stalled_s: float

    @classmethod
    def of(cls, settings: GatewaySettings) -> Self:
        """As set, or fewer where the process may not have that many descriptors: each request may need a file too."""
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        room = (descriptors - BACKLOG - _OTHER_DESCRIPTORS) // 2
        return cls(max(1, min(settings.max_connections, room)), settings.stalled_after_s)


def raise_descriptor_limit() -> None:
    """Allow this process as many descriptors as it may have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class BoundedProtocol(H11Protocol):
    """uvicorn's, within limits. It ends idle connections itself, but waits for ever for the rest of a header, and for a
    peer to take the rest of its answer.
    """

    connections: set["BoundedProtocol"]  # type: ignore[assignment]

    def __init__(self, *, limits: ConnectionLimits, **options: Any) -> None:
        super().__init__(**options)
        self._limits = limits
        self._timer: asyncio.TimerHandle | None = None
        self._waits_since = self.loop.time()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        _end_when_unread(transport, self._limits.stalled_s)
        self._watch_headers()
        if len(self.connections) > self._limits.connections:
            self._make_room()

    def handle_events(self) -> None:
        super().handle_events()
        self._watch_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop_timer()

    @property
    def may_be_given_up(self) -> bool:
        """It has not sent a whole header, or has been answered and still sends a body that nobody needs."""
        return self._awaits_request or (self.cycle.response_started and self.cycle.more_body)

    @property
    def _awaits_request(self) -> bool:
        return self.conn.their_state is h11.IDLE

    def _watch_headers(self) -> None:
        if not self._awaits_request:
            self._stop_timer()
        elif self._timer is None:
            self._waits_since = self.loop.time()
            self._timer = self.loop.call_later(self._limits.stalled_s, self._give_up)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        if not self.transport.is_closing():
            self._answer_too_slow()
            self.transport.close()

    def _answer_too_slow(self) -> None:
        """408 (RFC 9110 section 15.5.9), unless nothing has come at all."""
        if not self.conn.trailing_data[0]:
            return
        headers = [("Content-Type", "text/plain; charset=utf-8"), ("Connection", "close")]
        events = (
            h11.Response(status_code=408, headers=headers, reason=b"Request Timeout"),
            h11.Data(data=_TOO_SLOW.encode()),
            h11.EndOfMessage(),
        )
        for event in events:
            self.transport.write(self.conn.send(event) or b"")

    def _make_room(self) -> None:
        """End the connection that has waited longest; this one, where all others are at work."""
        log.warning(
            "more than %d connections are open: those that have been idle longest are closed", self._limits.connections
        )
        waiting = [other for other in self.connections if other is not self and other.may_be_given_up]
        given_up = min(waiting, key=lambda other: other._waits_since, default=self)
        self.connections.discard(given_up)
        given_up.transport.abort()


def _end_when_unread(transport: asyncio.Transport, after_s: float) -> None:
    """Have the kernel end the connection when the peer takes nothing of what is sent for that long (RFC 5482)."""
    connection: socket.socket | None = transport.get_extra_info("socket")
    if connection is not None and connection.family in _TCP and hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux has it
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(1000 * after_s))
