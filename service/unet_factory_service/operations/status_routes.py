"""``GET /status``: who works and what waits, at a glance. Monitoring reads ``/metrics``; this is for people's pages."""

from fastapi import APIRouter
from pydantic import Field

import unet_factory
from unet_factory.domain.frozen import Frozen
from unet_factory.domain.jobs import SEGMENT_QUEUE, WEIGHTS_QUEUE, DeliveryKind
from unet_factory.jobs.presence import WorkerPresence, present
from unet_factory_service.dependencies import GatewayDependency
from unet_factory_service.documentation import problems

router = APIRouter(tags=["health"])


class WorkerStatus(Frozen):
    """A worker that is up; ``started`` in seconds since the epoch."""

    device: str
    precision: str | None
    threads: int | None
    models: list[str]
    started: float


class Status(Frozen):
    version: str
    workers: list[WorkerStatus]
    active_jobs: int = Field(description="segmentations that wait or run")
    queued_jobs: int = Field(description="segmentations that no worker has taken yet")
    queued_networks: int = Field(description="ordered networks that no worker has taken yet")
    pending_deliveries: dict[DeliveryKind, int] = Field(description="those that are due or wait for another attempt")
    cache_used_bytes: int = Field(description="memory of the store that holds generated networks")
    cache_max_bytes: int = Field(description="how much it may be; 0: no limit")


@router.get("/status", operation_id="get_status", summary="Workers, queues and cache", responses=problems(503))
def get_status(gateway: GatewayDependency) -> Status:
    """Nothing in it tells of a patient, a caller or a single job."""
    cache = gateway.cache.memory()
    return Status(
        version=unet_factory.__version__,
        workers=[_described(worker) for worker in present(gateway.redis)],
        active_jobs=gateway.jobs.count_active(),
        queued_jobs=gateway.redis.llen(SEGMENT_QUEUE),
        queued_networks=gateway.redis.llen(WEIGHTS_QUEUE),
        pending_deliveries=gateway.deliveries.pending(),
        cache_used_bytes=cache.used_bytes,
        cache_max_bytes=cache.max_bytes,
    )


def _described(worker: WorkerPresence) -> WorkerStatus:
    kind = worker.kind
    return WorkerStatus(
        device=worker.device if kind is None else kind.device,
        precision=None if kind is None else kind.precision,
        threads=None if kind is None else kind.threads,
        models=sorted(worker.models),
        started=worker.started,
    )
