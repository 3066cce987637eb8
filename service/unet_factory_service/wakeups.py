"""Waiting for something to change in Redis without asking all the time: one subscription per server, many waiters.

A message only says "look again": waiters look before they wait and every now and then, so a lost one costs a moment.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from redis.exceptions import RedisError

from unet_factory.platform.redis_clients import connect_async, log_level

log = logging.getLogger(__name__)

RECHECK_S = 1.0
RECONNECT_S = 0.5


class Wakeup:
    """One waiter's bell. ``only`` is the message that it rings for; None: any."""

    def __init__(self, only: bytes | None = None) -> None:
        self._event, self._only = asyncio.Event(), only

    def ring(self, message: bytes | None = None) -> None:
        """None: something may have been missed."""
        if None in (message, self._only) or message == self._only:
            self._event.set()

    async def wait(self, timeout_s: float = RECHECK_S) -> None:
        """Until rung since the last wait, at most ``timeout_s`` (or the time between rechecks)."""
        try:
            async with asyncio.timeout(max(0.0, min(timeout_s, RECHECK_S))):
                await self._event.wait()
        except TimeoutError:
            pass
        self._event.clear()


class Wakeups:
    """Belongs to one event loop."""

    def __init__(self) -> None:
        self._waiting: defaultdict[str, set[Wakeup]] = defaultdict(set)
        self.closing = False

    @contextmanager
    def on(self, channel: str, only: bytes | None = None) -> Iterator[Wakeup]:
        """A bell that rings for every message on ``channel`` from here on, or for ``only`` that one. Look only after
        this, and none is missed.
        """
        wakeup = Wakeup(only)
        self._waiting[channel].add(wakeup)
        try:
            yield wakeup
        finally:
            self._waiting[channel].discard(wakeup)
            if not self._waiting[channel]:
                del self._waiting[channel]

    def waiting(self) -> int:
        """How many wait now."""
        return sum(len(wakeups) for wakeups in self._waiting.values())

    def close(self) -> None:
        """The server is stopping: every waiter is woken, and should answer with what it has."""
        self.closing = True
        self._ring_all()

    async def listen(self, url: str, *patterns: str) -> None:
        """Ring for messages on channels like ``patterns``, until cancelled; a server that is away is waited for."""
        while True:
            try:
                async with connect_async(url, socket_timeout=None) as redis, redis.pubsub() as pubsub:
                    await pubsub.psubscribe(*patterns)
                    async for message in pubsub.listen():
                        self._on_message(message)
            except (RedisError, OSError) as error:
                log.log(log_level(error), "the subscription for wake-ups is lost: %s", type(error).__name__)
            await asyncio.sleep(RECONNECT_S)

    def _on_message(self, message: dict[str, bytes | str]) -> None:
        if message["type"] == "pmessage":
            channel, data = message["channel"], message["data"]
            assert isinstance(channel, bytes)
            assert isinstance(data, bytes)
            for wakeup in self._waiting.get(channel.decode(), ()):
                wakeup.ring(data)
        else:
            self._ring_all()  # subscribed (again): something may have been missed

    def _ring_all(self) -> None:
        for waiting in self._waiting.values():
            for wakeup in waiting:
                wakeup.ring()
