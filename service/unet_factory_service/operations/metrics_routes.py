"""``GET /metrics`` for Prometheus: this process, those that share its metrics folder, the queues and the disk."""

import logging
from collections.abc import Iterator

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from redis import Redis
from redis.exceptions import RedisError

from unet_factory.domain.jobs import QUEUES
from unet_factory.jobs.deliveries import DeliveryStore
from unet_factory.platform.blob_store import BlobStore
from unet_factory.platform.metrics import scrape_registry
from unet_factory.platform.redis_clients import log_level
from unet_factory_service.dependencies import GatewayDependency

log = logging.getLogger(__name__)

router = APIRouter(tags=["health"])


class QueueDepth(Collector):
    """Messages that no worker has taken yet, read from Redis at each scrape; absent while Redis is away."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def collect(self) -> Iterator[GaugeMetricFamily]:
        depth = GaugeMetricFamily("unet_factory_queue_depth", "Messages that wait for a worker", labels=["queue"])
        try:
            for queue in QUEUES:
                depth.add_metric([queue], self._redis.llen(queue))
        except RedisError as error:
            log.log(log_level(error), "the queue depth is unknown: %s", type(error).__name__)
            return
        yield depth


class PendingDeliveries(Collector):
    """Deliveries that are due or wait for another attempt; absent while Redis is away."""

    def __init__(self, redis: Redis) -> None:
        self._deliveries = DeliveryStore(redis)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        name, text = "unet_factory_deliveries_pending", "Webhooks, pushes and fetches that are not done yet"
        pending = GaugeMetricFamily(name, text, labels=["kind"])
        try:
            for kind, count in self._deliveries.pending().items():
                pending.add_metric([kind.value], count)
        except RedisError as error:
            log.log(log_level(error), "the pending deliveries are unknown: %s", type(error).__name__)
            return
        yield pending


class DiskSpace(Collector):
    """Of the disk that uploads and results lie on; of temporary copies, where these are kept in S3."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs

    def collect(self) -> Iterator[GaugeMetricFamily]:
        free, capacity = self._blobs.disk_usage()
        yield GaugeMetricFamily("unet_factory_disk_free_bytes", "Free on the disk of uploads and results", value=free)
        yield GaugeMetricFamily("unet_factory_disk_capacity_bytes", "Size of that disk", value=capacity)


@router.get(
    "/metrics",
    operation_id="metrics",
    summary="Prometheus metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
def metrics(gateway: GatewayDependency) -> Response:
    shared = CollectorRegistry()
    for collector in (QueueDepth(gateway.redis), PendingDeliveries(gateway.redis), DiskSpace(gateway.blobs)):
        shared.register(collector)
    return Response(
        generate_latest(scrape_registry()) + generate_latest(shared), headers={"Content-Type": CONTENT_TYPE_LATEST}
    )
