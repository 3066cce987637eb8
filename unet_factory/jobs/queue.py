"""Putting work on the queue: the one module that knows Celery, and tasks by name only, so no worker is imported.

How many networks are being made, and how many each caller's orders may keep in the cache, is bounded: without that, one
caller could have thousands made, which all segmentations would wait for, and whose bytes would push out of the cache
what everybody else uses.
"""

import threading
from collections.abc import Mapping, Sequence
from enum import StrEnum
from functools import cached_property
from typing import Any, NamedTuple

from redis import Redis
from redis.exceptions import RedisError

from unet_factory.domain.errors import QueueUnavailable
from unet_factory.domain.jobs import (
    GENERATE_TASK,
    HELP_TASK,
    ORIGIN_HEADER,
    SEGMENT_QUEUE,
    SEGMENT_TASK,
    WEIGHTS_QUEUE,
    WINDOWS_QUEUE,
    GenerationRequest,
)
from unet_factory.jobs.scripts import lua
from unet_factory.platform.following import origin_of_new_work
from unet_factory.platform.weight_cache import NETWORK_TTL_S, weight_key

_CONNECT_TIMEOUT_S = 2.0
_RETRY_POLICY = {"max_retries": 2, "interval_start": 0.1, "interval_step": 0.2, "interval_max": 0.5}
_BEING_MADE = "networks:being-made"
_LASTS_S = 300.0  # a place whose message was lost becomes free


class JobQueue:
    """Safe to share between threads. A message counts as sent when Redis has answered that it holds it."""

    def __init__(self, broker_url: str, transport_options: Mapping[str, Any] | None = None) -> None:
        self._broker_url, self._transport_options = broker_url, transport_options or {}
        self._lock = threading.Lock()

    def send_segmentation(self, job_id: str) -> None:
        """
        Raises:
            QueueUnavailable: the broker did not take it.
        """
        self._send(SEGMENT_TASK, job_id, SEGMENT_QUEUE)

    def send_generation(self, request: GenerationRequest) -> None:
        """
        Raises:
            QueueUnavailable: the broker did not take it.
        """
        self._send(GENERATE_TASK, request.model_dump_json(), WEIGHTS_QUEUE)

    def send_help(self, job_id: str) -> None:
        """Ask an idle worker to help with the windows of a job.

        Raises:
            QueueUnavailable: the broker did not take it.
        """
        self._send(HELP_TASK, job_id, WINDOWS_QUEUE)

    def warm_up(self) -> None:
        """Import what the first message would have to wait for."""
        with self._lock:
            self._app.amqp.producer_pool  # noqa: B018 (creating it is the point)

    def close(self) -> None:
        with self._lock:
            self._app.close()

    @cached_property
    def _app(self) -> Any:
        from celery import Celery  # takes as long to import as half of the gateway

        return Celery(
            "unet_factory_queue",
            broker=self._broker_url,
            backend=None,
            set_as_current=False,
            changes={
                "task_serializer": "json",
                "accept_content": ["json"],
                "task_ignore_result": True,
                "broker_connection_timeout": _CONNECT_TIMEOUT_S,
                "broker_transport_options": {
                    "socket_timeout": 5.0,
                    "socket_connect_timeout": _CONNECT_TIMEOUT_S,
                    **self._transport_options,
                },
            },
        )

    def _send(self, task: str, argument: str, queue: str) -> None:
        from kombu.exceptions import OperationalError

        with self._lock:
            app = self._app
        try:
            app.send_task(
                task,
                args=[argument],
                queue=queue,
                headers={ORIGIN_HEADER: origin_of_new_work().model_dump_json()},
                ignore_result=True,
                retry=True,
                retry_policy=_RETRY_POLICY,
            )
        except (OperationalError, RedisError) as error:
            raise QueueUnavailable("the queue cannot be reached at the moment; try again") from error


class Taken(StrEnum):
    """Which places are all taken."""

    OWNER = "owner"
    ALL = "all"


class OrderLimits(NamedTuple):
    """0: any number. ``owner`` and ``in_all`` count networks being made, ``kept`` an owner's networks in the cache."""

    owner: int
    in_all: int
    kept: int


class NetworkOrders:
    """What callers ordered; safe to share between threads. The owner is empty where no API keys are required."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._order = redis.register_script(lua("order_network"))

    def take(self, request: GenerationRequest, owner: str, limits: OrderLimits) -> Taken | Sequence[str]:
        """Take a place for a network until it is :meth:`done`.

        Returns:
            Which places are taken; else the keys of the owner's oldest networks, which the cache is to drop.
        """
        found: Any = self._order(
            keys=[_BEING_MADE, f"networks:of:{owner}"],
            args=[weight_key(request), owner, limits.owner, limits.in_all, _LASTS_S, limits.kept, NETWORK_TTL_S],
        )
        verdict, *dropped = (raw.decode() for raw in found)
        return Taken(verdict) if verdict else dropped

    def done(self, request: GenerationRequest) -> None:
        """It was made, or cannot be: its place is free."""
        self._redis.hdel(_BEING_MADE, weight_key(request))
