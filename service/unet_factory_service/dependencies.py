"""What the routes work with: one set per app, opened with it and closed with it."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from redis import Redis

from unet_factory.destinations import Destinations
from unet_factory.jobs.costs import CostStore
from unet_factory.jobs.deliveries import DeliveryStore
from unet_factory.jobs.keys import events_channel
from unet_factory.jobs.lifecycle import JobLifecycle
from unet_factory.jobs.maintenance import Maintenance, run_maintenance
from unet_factory.jobs.queue import JobQueue, NetworkOrders
from unet_factory.jobs.store import JobStore
from unet_factory.platform.api_keys import KeyStore
from unet_factory.platform.blob_store import BlobStore
from unet_factory.platform.model_registry import ModelRegistry
from unet_factory.platform.process_memory import keep_out_of_collections
from unet_factory.platform.redis_clients import connect
from unet_factory.platform.weight_cache import WeightCache, connect_cache
from unet_factory_service.access.checking import Checking
from unet_factory_service.access.quotas import RequestQuota
from unet_factory_service.dicomweb.received import ReceivedSeries
from unet_factory_service.dicomweb.results import ResultIndex
from unet_factory_service.dicomweb.routing import Routing, read_routing
from unet_factory_service.networks.recent import RecentNetworks
from unet_factory_service.settings import GatewaySettings
from unet_factory_service.wakeups import Wakeups

_MAINTENANCE_ENDS_WITHIN_S = 10.0


@dataclass(frozen=True)
class GatewayContext:
    """The gateway's settings, stores and connections."""

    settings: GatewaySettings
    registry: ModelRegistry
    redis: Redis
    jobs: JobStore
    lifecycle: JobLifecycle
    cache: WeightCache
    networks: RecentNetworks
    orders: NetworkOrders
    costs: CostStore
    blobs: BlobStore
    queue: JobQueue
    wakeups: Wakeups
    destinations: Destinations
    deliveries: DeliveryStore
    received: ReceivedSeries
    results: ResultIndex
    routing: Routing | None
    keys: KeyStore
    quota: RequestQuota
    checking: Checking

    @classmethod
    def build(cls, settings: GatewaySettings) -> "GatewayContext":
        """Connects to nothing yet: the gateway starts, and says that it is not ready, while Redis is away.

        Raises:
            CheckpointInvalid: a file in the model folder is not a checkpoint.
            ModelUnknown: the default model is not there.
            DestinationsInvalid: the file of archives and webhooks cannot be used.
            RoutingInvalid: the rules for received series cannot be used.
        """
        redis = connect(settings.redis_url)
        registry = ModelRegistry.scan(settings.models_dir, settings.default_model)
        jobs, blobs = JobStore(redis), BlobStore(settings.blob_url, min_free_bytes=settings.min_free_bytes)
        cache, destinations = WeightCache(connect_cache(settings.weights_url)), Destinations.load(settings.destinations)
        return cls(
            settings=settings,
            registry=registry,
            redis=redis,
            jobs=jobs,
            lifecycle=JobLifecycle(redis, blobs),
            cache=cache,
            networks=RecentNetworks(cache, settings.networks_in_memory_bytes),
            orders=NetworkOrders(redis),
            costs=CostStore(redis),
            blobs=blobs,
            queue=JobQueue(settings.broker_url, settings.broker_options),
            wakeups=Wakeups(),
            destinations=destinations,
            deliveries=DeliveryStore(redis),
            received=ReceivedSeries(redis, settings),
            results=ResultIndex(redis, jobs, blobs),
            routing=read_routing(settings.routing, registry, destinations),
            keys=KeyStore(redis),
            quota=RequestQuota(redis, settings),
            checking=Checking(),
        )

    def check_room(self, wanted_bytes: int) -> None:
        """Refuse an upload before the disk is full; room to pack the received series that wait is kept, too.

        Raises:
            StorageFull: there is no space for that many more bytes.
        """
        waiting_bytes = self.received.waiting_bytes() if self.blobs.is_local else 0
        self.blobs.check_room(wanted_bytes + waiting_bytes)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The subscriptions and the maintenance thread live as long as the block."""
        listeners = [
            asyncio.create_task(self.wakeups.listen(self.settings.redis_url, events_channel("*"))),
            asyncio.create_task(self.wakeups.listen(self.settings.weights_url, "weights:*:ready")),
        ]
        stop = threading.Event()
        maintenance = threading.Thread(target=self._maintain, args=(stop,), name="maintenance", daemon=True)
        maintenance.start()
        try:
            yield
        finally:
            self.wakeups.close()
            stop.set()
            for listener in listeners:
                listener.cancel()
            await asyncio.gather(*listeners, return_exceptions=True)
            await asyncio.to_thread(maintenance.join, _MAINTENANCE_ENDS_WITHIN_S)
            self.queue.close()
            self.redis.close()

    def _maintain(self, stop: threading.Event) -> None:
        self.queue.warm_up()
        keep_out_of_collections()
        maintenance = Maintenance(self.redis, self.blobs, self.queue.send_segmentation, self.settings)
        run_maintenance(maintenance, self.settings.maintenance_interval_s, stop)


async def _context_of(request: Request) -> GatewayContext:  # async, or FastAPI would call it in a thread
    gateway = request.app.state.gateway
    assert isinstance(gateway, GatewayContext)
    return gateway


GatewayDependency = Annotated[GatewayContext, Depends(_context_of)]
