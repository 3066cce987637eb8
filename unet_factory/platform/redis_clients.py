"""Clients of the Redis servers, which log when a server goes away and when it is back: once for a whole process."""

import logging
from functools import cached_property
from typing import Any

from redis.asyncio import Redis as AsyncRedis
from redis.client import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from unet_factory.platform.outages import outages

AWAY = (RedisConnectionError, RedisTimeoutError)


def connect(url: str, **options: Any) -> Redis:
    """A client that connects when it is first used.

    Args:
        options: as :meth:`redis.Redis.from_url` takes them.
    """
    client = Redis.from_url(url, **options)
    client.connection_pool.connection_class = _telling(client.connection_pool.connection_class)
    return client


def connect_async(url: str, **options: Any) -> AsyncRedis:
    """As :func:`connect`, for one event loop."""
    client = AsyncRedis.from_url(url, **options)
    client.connection_pool.connection_class = _telling_async(client.connection_pool.connection_class)
    return client


def log_level(error: Exception) -> int:
    """Of a line about a server's error: low where the outage has a line of its own."""
    return logging.DEBUG if isinstance(error, AWAY) else logging.WARNING


def _name_of(connection: Any) -> str:
    place = getattr(connection, "path", None) or f"{connection.host}:{connection.port}"
    return f"Redis at {place}"


def _telling(kind: Any) -> Any:
    class Telling(kind):  # type: ignore[misc]
        server = cached_property(_name_of)

        def connect(self) -> None:
            if self.is_connected:  # maybe to a server that is gone, which only the next command will notice
                return
            try:
                super().connect()
            except AWAY as error:
                outages.failed(self.server, error)
                raise
            outages.answered(self.server)

    return Telling


def _telling_async(kind: Any) -> Any:
    class Telling(kind):  # type: ignore[misc]
        server = cached_property(_name_of)

        async def connect(self) -> None:
            if self.is_connected:
                return
            try:
                await super().connect()
            except AWAY as error:
                outages.failed(self.server, error)
                raise
            outages.answered(self.server)

    return Telling
