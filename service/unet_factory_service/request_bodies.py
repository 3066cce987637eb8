"""Bodies of requests: what the app leaves unread is read to its end, and one that does not come is given up."""

import asyncio
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

DRAINED_BYTES = 2**26
DRAINED_WITHIN_S = 30.0
SLOWEST_BYTES_PER_S = 1000.0


class RequestBodies:
    """An answer may be out before the body was read: the rest of it is read then, up to a bound.

    A server that closes a connection with unread data makes the peer lose the answer (RFC 9112 section 9.6); a proxy
    turns that into 502. A body must come at a minimum rate, apart from ``patience_s`` to begin with.
    """

    def __init__(self, app: ASGIApp, patience_s: float) -> None:
        self._app, self._patience_s = app, patience_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope) if scope["type"] == "http" else Headers()
        chunked = "Transfer-Encoding" in headers
        if not chunked and headers.get("Content-Length", "0") == "0":
            await self._app(scope, receive, send)
            return
        body = _Body(receive, self._patience_s)
        ambiguous = chunked and "Content-Length" in headers  # RFC 9112 section 6.1: close after answering
        withheld = headers.get("Expect", "").lower() == "100-continue"

        async def send_drained(message: Message) -> None:
            if message["type"] == "http.response.start" and (ambiguous or not body.complete):
                MutableHeaders(scope=message)["Connection"] = "close"
            ends = message["type"] == "http.response.body" and not message.get("more_body", False)
            if not ends or body.complete or (withheld and not body.begun):
                await send(message)
                return
            await send({**message, "more_body": True})
            await body.drain()
            await send({"type": "http.response.body", "body": b"", "more_body": False})

        await self._app(scope, body.receive, send_drained)


class _Body:
    """Counts what comes, and for how long it was waited for."""

    def __init__(self, receive: Receive, patience_s: float) -> None:
        self._receive, self._patience_s = receive, patience_s
        self._bytes, self._waited_s = 0, 0.0
        self.begun = self.complete = False

    async def receive(self) -> Message:
        """
        Raises:
            HTTPException: 408, it comes too slowly.
        """
        if self.complete:
            return await self._receive()
        self.begun, started = True, time.monotonic()
        remaining_s = self._patience_s + self._bytes / SLOWEST_BYTES_PER_S - self._waited_s
        try:
            async with asyncio.timeout(max(0.0, remaining_s)):
                message = await self._receive()
        except TimeoutError:
            raise HTTPException(
                408,
                f"the body arrived too slowly: after {self._patience_s:g} s at least {SLOWEST_BYTES_PER_S:g} bytes a"
                " second are expected",
            ) from None
        self._waited_s += time.monotonic() - started
        self._bytes += len(message.get("body", b""))
        self.complete = not message.get("more_body", False)  # also when the peer is gone
        return message

    async def drain(self) -> None:
        """Read on until the end of the body, or until it is too much."""
        first = self._bytes
        try:
            async with asyncio.timeout(DRAINED_WITHIN_S):
                while not self.complete and self._bytes - first < DRAINED_BYTES:
                    await self.receive()
        except (TimeoutError, HTTPException):
            return
