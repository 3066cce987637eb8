"""Clients of the Redis servers, which log when a server goes away and when it is back: once for a whole process.

Where the URL names Sentinels, a client's next command after a failover finds the new primary.
"""

import logging
from functools import cached_property
from typing import Any

from redis.asyncio import Redis as AsyncRedis
from redis.asyncio.sentinel import Sentinel as AsyncSentinel
from redis.client import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.sentinel import Sentinel

from unet_factory.domain.errors import StorageUnavailable
from unet_factory.platform.outages import outages
from unet_factory.platform.redis_url import SENTINEL_OPTIONS, SentinelService

AWAY = (RedisConnectionError, RedisTimeoutError)

_BARRIER = "replication:barrier"
_REPLICAS_ANSWER_WITHIN_S = 2.0


def connect(url: str, **options: Any) -> Redis:
    """A client that connects when it is first used.

    Args:
        options: as :meth:`redis.Redis.from_url` takes them.
    """
    client = _of_service(Sentinel, url, options) or Redis.from_url(url, **options)
    client.connection_pool.connection_class = _telling(client.connection_pool.connection_class)
    return client


def connect_async(url: str, **options: Any) -> AsyncRedis:
    """As :func:`connect`, for one event loop."""
    client = _of_service(AsyncSentinel, url, options) or AsyncRedis.from_url(url, **options)
    client.connection_pool.connection_class = _telling_async(client.connection_pool.connection_class)
    return client


def log_level(error: Exception) -> int:
    """Of a line about a server's error: low where the outage has a line of its own."""
    return logging.DEBUG if isinstance(error, AWAY) else logging.WARNING


def await_replicas(redis: Redis, replicas: int) -> None:
    """Wait until so many replicas have all that was written until now, by whatever connection.

    Writes reach replicas in one order, so it is enough that they have a later one: ``WAIT`` counts only those of its
    own connection.

    Raises:
        StorageUnavailable: fewer have it in time.
    """
    if replicas == 0:
        return
    with redis.pipeline(transaction=False) as pipeline:
        pipeline.set(_BARRIER, b"", ex=60)
        pipeline.wait(replicas, round(_REPLICAS_ANSWER_WITHIN_S * 1000))
        _, reached = pipeline.execute()
    if reached < replicas:
        raise StorageUnavailable(
            f"{reached} of {replicas} replicas of the job store could be reached; try again", replicas=replicas
        )


def _of_service(kind: Any, url: str, options: dict[str, Any]) -> Any:
    """A client of the primary that Sentinels name; None where the URL is that of a server."""
    service = SentinelService.named_in(url)
    if service is None:
        return None
    sentinel = kind(service.sentinels, sentinel_kwargs=SENTINEL_OPTIONS)
    return sentinel.master_for(service.name, db=service.database, **service.credentials, **options)


def _name_of(connection: Any) -> str:
    service = getattr(getattr(connection, "connection_pool", None), "service_name", None)
    if service is not None:
        return f"the Redis service {service}"
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
