"""The process that computes: its device, models and connections, made once at its start."""

import logging
import os
import socket
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from redis import Redis
from redis.exceptions import RedisError

from unet_factory.domain.errors import ModelUnknown
from unet_factory.domain.spacing import SnappedSpacing
from unet_factory.jobs.lifecycle import JobLifecycle
from unet_factory.jobs.presence import WorkerPresence, announce, withdraw
from unet_factory.jobs.store import JobStore
from unet_factory.model.checkpoint import Checkpoint, load_checkpoint
from unet_factory.model.inference import logits
from unet_factory.platform.blob_store import BlobStore
from unet_factory.platform.metrics import forget_dead_processes
from unet_factory.platform.weight_cache import WeightCache
from unet_factory_worker.device import describe, pick_device
from unet_factory_worker.factory import WeightFactory
from unet_factory_worker.settings import WorkerSettings

log = logging.getLogger(__name__)

_HEARTBEAT_S = 1.0
_STOPS_WITHIN_S = 10.0


@dataclass(frozen=True)
class WorkerContext:
    """What a task needs, open for the life of the process."""

    settings: WorkerSettings
    device: torch.device
    jobs: JobStore
    lifecycle: JobLifecycle
    blobs: BlobStore
    cache: WeightCache
    factory: WeightFactory


def open_context(settings: WorkerSettings) -> tuple[WorkerContext, dict[str, Checkpoint]]:
    """Connect, load every checkpoint, and run each once, so that the first job is as fast as the next.

    Raises:
        CheckpointInvalid: a file in the model folder is no checkpoint.
        RuntimeError: the device asked for is not there.
        ModelUnknown: there is no model at all.
    """
    if settings.threads:
        torch.set_num_threads(settings.threads)
    device = pick_device(settings.device)
    checkpoints = load_models(settings.models_dir, device)
    cache = WeightCache(Redis.from_url(settings.weights_url))
    redis, blobs = Redis.from_url(settings.redis_url), BlobStore(settings.blob_url)
    context = WorkerContext(
        settings=settings,
        device=device,
        jobs=JobStore(redis),
        lifecycle=JobLifecycle(redis, blobs),
        blobs=blobs,
        cache=cache,
        factory=WeightFactory(checkpoints, cache, device, settings.device_cache_networks),
    )
    return context, checkpoints


def load_models(folder: Path, device: torch.device) -> dict[str, Checkpoint]:
    """Every checkpoint of a folder by model name, each having run once. Raises as :func:`open_context`."""
    loaded = [load_checkpoint(path, device) for path in sorted(folder.glob("*.safetensors"))]
    if not loaded:
        raise ModelUnknown(f"there is no *.safetensors checkpoint in {folder}")
    for checkpoint in loaded:
        _warm_up(checkpoint, device)
    return {checkpoint.manifest.name: checkpoint for checkpoint in loaded}


def start(settings: WorkerSettings) -> None:
    """Become ready for tasks, and say so."""
    global _context, _heartbeat
    forget_dead_processes()
    _context, checkpoints = open_context(settings)
    _heartbeat = Heartbeat(settings.redis_url, _presence(_context.device, checkpoints), settings.lease_s)
    _heartbeat.start()
    log.info("ready with %s", ", ".join(checkpoints))


def stop() -> None:
    """Say that this worker is going away."""
    if _heartbeat is not None:
        _heartbeat.stop()


def context() -> WorkerContext:
    assert _context is not None, "tasks run only after start()"
    return _context


class Heartbeat(threading.Thread):
    """Announces the worker, and ends the process when its parent is gone: nobody would ever give it work again."""

    def __init__(self, redis_url: str, presence: WorkerPresence, lasts_s: float) -> None:
        super().__init__(name="heartbeat", daemon=True)
        self._redis, self._presence, self._lasts_s = Redis.from_url(redis_url), presence, lasts_s
        self._parent = os.getppid()
        self._worker_id = f"{socket.gethostname()}-{self._parent}"
        self._done = threading.Event()

    def run(self) -> None:
        while True:
            try:
                announce(self._redis, self._worker_id, self._presence, self._lasts_s)
            except RedisError as error:
                log.warning("presence cannot be announced: %s", type(error).__name__)
            if self._done.wait(min(_HEARTBEAT_S, self._lasts_s / 4)):
                return
            if os.getppid() != self._parent:
                os._exit(1)

    def stop(self) -> None:
        self._done.set()
        self.join(_STOPS_WITHIN_S)
        try:
            withdraw(self._redis, self._worker_id)
        except RedisError:
            log.info("presence ends by itself")


def _presence(device: torch.device, checkpoints: dict[str, Checkpoint]) -> WorkerPresence:
    models = {name: checkpoint.digest for name, checkpoint in checkpoints.items()}
    return WorkerPresence(device=describe(device), models=models, started=time.time(), pid=os.getpid())


def _warm_up(checkpoint: Checkpoint, device: torch.device) -> None:
    """Send the smallest input through a network, so that libraries load and the device wakes now."""
    unet = checkpoint.hypernetwork.unet(SnappedSpacing(*checkpoint.manifest.grid.min_um))
    extents = tuple(2 * divisor for divisor in unet.divisors)
    with torch.inference_mode():
        logits(unet, torch.zeros(extents, device=device), window=extents, divisors=unet.divisors)


_context: WorkerContext | None = None
_heartbeat: Heartbeat | None = None
