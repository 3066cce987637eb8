"""The process that computes: its device, models and connections, made once at its start."""

import logging
import os
import socket
import threading
import time
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

import torch
from redis import Redis
from redis.exceptions import RedisError

from unet_factory.domain.errors import ModelUnknown
from unet_factory.domain.precision import Precision
from unet_factory.domain.quote import WorkerKind
from unet_factory.jobs.costs import CostStore
from unet_factory.jobs.lifecycle import JobLifecycle
from unet_factory.jobs.presence import WorkerPresence, announce, withdraw
from unet_factory.jobs.queue import JobQueue, NetworkOrders
from unet_factory.jobs.store import JobStore
from unet_factory.model.device import describe, pick_device
from unet_factory.model.precision import pick_precision
from unet_factory.platform.blob_store import BlobStore
from unet_factory.platform.logs import safe_traceback
from unet_factory.platform.metrics import WORKERS_BY_PRECISION, forget_dead_processes
from unet_factory.platform.model_registry import ModelRegistry
from unet_factory.platform.process_memory import keep_freed_memory, keep_out_of_collections
from unet_factory.platform.redis_clients import connect, log_level
from unet_factory.platform.shared_copies import SharedCopies
from unet_factory.platform.weight_cache import WeightCache, connect_cache
from unet_factory_worker.calibration import Calibration
from unet_factory_worker.computing import Computing, GaveWay
from unet_factory_worker.costs import worker_kind
from unet_factory_worker.factory import WeightFactory
from unet_factory_worker.loaded_models import LoadedModels
from unet_factory_worker.mutual_watch import MutualWatch
from unet_factory_worker.settings import WorkerSettings
from unet_factory_worker.warm_networks import WarmNetworks

log = logging.getLogger(__name__)

_HEARTBEAT_S = 1.0
_STOPS_WITHIN_S = 10.0
_LOOK_EVERY_S = 2.0
_NEEDED_BY_JOBS = ("unet_factory_worker.segmentation_task", "scipy.ndimage")  # half a second that the start is spared


@dataclass(frozen=True)
class WorkerContext:
    """What a task needs, open for the life of the process."""

    settings: WorkerSettings
    redis: Redis
    queue: JobQueue
    device: torch.device
    precision: Precision
    jobs: JobStore
    lifecycle: JobLifecycle
    blobs: BlobStore
    cache: WeightCache
    models: LoadedModels
    factory: WeightFactory
    costs: CostStore
    kind: WorkerKind
    computing: Computing = field(default_factory=Computing)

    @property
    def calibration(self) -> Calibration:
        return Calibration(
            device=self.device,
            precision=self.precision,
            kind=self.kind,
            costs=self.costs,
            blobs=self.blobs,
            models=self.models,
            factory=self.factory,
            computing=self.computing,
        )


def open_context(settings: WorkerSettings) -> WorkerContext:
    """Connect, load every checkpoint, and run each once, so that the first job is as fast as the next.

    Raises:
        RuntimeError: the device asked for is not there.
        ModelUnknown: there is no usable model.
    """
    if settings.threads:
        torch.set_num_threads(settings.threads)
    device = pick_device(settings.device)
    shared = SharedCopies(Path(settings.shared_weights_dir)) if settings.shared_weights_dir else None
    models = LoadedModels(ModelRegistry(settings.models_dir), device, shared)
    models.refresh()
    if not models.current():
        raise ModelUnknown(f"there is no usable *.safetensors checkpoint in {settings.models_dir}")
    cache = WeightCache(connect_cache(settings.weights_url))
    redis, blobs = (
        connect(settings.redis_url),
        BlobStore(settings.blob_url, min_free_bytes=settings.min_free_bytes),
    )
    precision = pick_precision(settings.precision, models.any(), device)
    return WorkerContext(
        settings=settings,
        redis=redis,
        queue=JobQueue(settings.broker_url, settings.broker_options),
        device=device,
        precision=precision,
        jobs=JobStore(redis),
        lifecycle=JobLifecycle(redis, blobs),
        blobs=blobs,
        cache=cache,
        models=models,
        factory=WeightFactory(models.get, cache, NetworkOrders(redis), device, settings.device_cache_networks),
        costs=CostStore(redis),
        kind=worker_kind(device, precision),
    )


def start(settings: WorkerSettings, watch: MutualWatch) -> None:
    """Become ready for tasks, and say so for as long as the parent, whom ``watch`` observes, can hand them on."""
    global _context, _heartbeat
    forget_dead_processes()
    keep_freed_memory()
    _context = open_context(settings)
    WORKERS_BY_PRECISION.labels(_context.precision).set(1)
    _heartbeat = Heartbeat(settings, _context.models, describe(_context.device), _context.kind, watch)
    _heartbeat.start()
    threading.Thread(target=_follow_folder, args=(_context,), name="models", daemon=True).start()
    log.info("ready with %s", ", ".join(_context.models.current()))


def _follow_folder(context: WorkerContext) -> None:
    """Load what is put into the model folder, beside the work, apart from the heartbeat; prepare for it when idle."""
    for needed in _NEEDED_BY_JOBS:
        import_module(needed)
    keep_out_of_collections()
    spacings = context.settings.warm_spacings_ras_mm
    warm = WarmNetworks(spacings, context.models, context.factory, context.computing)
    while True:
        time.sleep(_LOOK_EVERY_S)
        try:
            context.models.refresh()
        except Exception as error:
            log.error("the model folder could not be read again\n%s", safe_traceback(error))
        _use_idle_time(warm, context)


def _use_idle_time(warm: WarmNetworks, context: WorkerContext) -> None:
    try:
        warm.run()
        if context.settings.calibrate:
            context.calibration.run()
    except GaveWay:
        log.debug("a job came; the rest is made and measured later")
    except RedisError as error:
        log.log(log_level(error), "what jobs cost cannot be recorded: %s", type(error).__name__)
    except Exception as error:
        log.error("networks could not be made, or what jobs cost could not be measured\n%s", safe_traceback(error))


def stop() -> None:
    """Say that this worker is going away."""
    if _heartbeat is not None:
        _heartbeat.stop()


def context() -> WorkerContext:
    assert _context is not None, "tasks run only after start()"
    return _context


class Heartbeat(threading.Thread):
    """Announces the worker with its models as they are, and ends the process when its parent is gone.

    Without a parent nobody would ever give it work again; while the parent is silent, the worker is not announced.
    """

    def __init__(
        self, settings: WorkerSettings, models: LoadedModels, device: str, kind: WorkerKind, watch: MutualWatch
    ) -> None:
        super().__init__(name="heartbeat", daemon=True)
        self._redis, self._lasts_s = connect(settings.redis_url), settings.presence_s
        self._models, self._watch = models, watch
        self._device, self._kind, self._since = device, kind, time.time()
        self._parent = os.getppid()
        self._worker_id = f"{socket.gethostname()}-{self._parent}"
        self._done = threading.Event()

    def run(self) -> None:
        while True:
            if self._watch.other_silent_s < self._lasts_s:
                self._announce()
            if self._done.wait(min(_HEARTBEAT_S, self._lasts_s / 4)):
                return
            if os.getppid() != self._parent:
                os._exit(1)

    def _announce(self) -> None:
        models = self._models.current()
        presence = WorkerPresence(
            device=self._device, models=models, started=self._since, pid=os.getpid(), kind=self._kind
        )
        try:
            announce(self._redis, self._worker_id, presence, self._lasts_s)
        except RedisError as error:
            log.log(log_level(error), "the worker's presence cannot be announced: %s", type(error).__name__)

    def stop(self) -> None:
        self._done.set()
        self.join(_STOPS_WITHIN_S)
        try:
            withdraw(self._redis, self._worker_id)
        except RedisError:
            log.info("presence ends by itself")


_context: WorkerContext | None = None
_heartbeat: Heartbeat | None = None
