"""Real worker processes and real jobs for them, for tests that hurt both."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import nibabel
import numpy as np
from redis import Redis

from tests.fixtures.settings import FactorySettings
from tests.system.processes import alive, until
from unet_factory.domain.jobs import (
    GenerationRequest,
    Job,
    PolicyReport,
    SegmentationRequest,
    new_job_id,
)
from unet_factory.domain.spacing import OutsidePolicy
from unet_factory.jobs.lifecycle import JobLifecycle
from unet_factory.jobs.presence import WorkerPresence, present
from unet_factory.jobs.queue import JobQueue
from unet_factory.jobs.store import JobStore
from unet_factory.platform.blob_store import BlobStore
from unet_factory.platform.model_registry import ModelRegistry
from unet_factory_cli.embedded import JOBS_OPTIONS, EmbeddedServer

_RUN = """
import sys
from unet_factory_worker.celery_app import run
from unet_factory_worker.settings import WorkerSettings
sys.exit(run(WorkerSettings()))
"""


class WorkerProcess:
    """A worker in a process group of its own."""

    def __init__(self, settings: FactorySettings) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("UNET_FACTORY_")}
        for name in settings.model_fields_set | {"precision"}:  # whose default for tests is not the worker's own
            environment[f"UNET_FACTORY_{name.upper()}"] = str(getattr(settings, name))
        self._process = subprocess.Popen([sys.executable, "-c", _RUN], env=environment, process_group=0)

    @property
    def pid(self) -> int:
        return self._process.pid

    def alive(self) -> bool:
        return self._process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """To the parent alone."""
        self._process.send_signal(number)

    def wait(self, timeout_s: float = 60.0) -> int:
        return self._process.wait(timeout_s)

    def kill_group(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


@dataclass
class Bench:
    """Stores, a queue, and the means to put jobs on it as the gateway does."""

    settings: FactorySettings
    redis: Redis
    folder: Path
    server: EmbeddedServer

    def __post_init__(self) -> None:
        self.jobs, self.blobs = JobStore(self.redis), BlobStore(self.settings.blob_url)
        self.lifecycle = JobLifecycle(self.redis, self.blobs)
        self._queue = JobQueue(self.settings.broker_url)
        self.model = ModelRegistry.scan(self.settings.models_dir).get()

    @classmethod
    @contextmanager
    def of_tiny_models(cls, folder: Path, models_dir: Path, **settings: Any) -> Iterator[Self]:
        """On stores of its own in ``folder``, for workers of one thread whose lost jobs are soon found."""
        server = EmbeddedServer.start(folder / "redis", JOBS_OPTIONS)
        common: dict[str, Any] = {"device": "cpu", "threads": 1, "lease_s": 2.0, "maintenance_interval_s": 0.5}
        all_settings = FactorySettings(
            redis_url=server.redis_url,
            blob_url=(folder / "blobs").as_uri(),
            models_dir=models_dir,
            **common | settings,
        )
        with Redis.from_url(server.redis_url) as redis:
            bench = cls(all_settings, redis, folder, server)
            yield bench
        bench.server.stop()

    def outage(self, length_s: float) -> None:
        """The server ends, and comes back with what it has on disk."""
        self.server.stop()
        time.sleep(length_s)
        self.server = EmbeddedServer.start(self.server.folder, JOBS_OPTIONS)

    def submit(self, extent: int, spacing_mm: float = 1.0, **wishes: Any) -> str:
        """A job for a cube of noise of ``extent`` voxels."""
        job_id, now = new_job_id(), time.time()
        scan = self.folder / f"{job_id}.nii"
        voxels = np.random.default_rng(0).normal(size=(extent,) * 3).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(voxels, np.diag([spacing_mm] * 3 + [1.0])), scan)
        self.blobs.put(job_id, "input.nii", scan)
        name, digest = self.model.manifest.name, self.model.digest
        request = SegmentationRequest(model=name, checkpoint_digest=digest, input_name="input.nii", **wishes)
        policy = PolicyReport(outside=OutsidePolicy.CLAMP)
        self.jobs.create(Job(id=job_id, model=name, policy=policy, created=now, expires=now + 600), request)
        self._queue.send_segmentation(job_id)
        return job_id

    def order_network(self, snapped_um: tuple[int, int, int]) -> GenerationRequest:
        request = GenerationRequest(
            model=self.model.manifest.name, checkpoint_digest=self.model.digest, snapped_um=snapped_um
        )
        self._queue.send_generation(request)
        return request

    def started(self, job_id: str, attempt: int = 1) -> Job | None:
        """The job once an attempt has segmented some windows."""
        job = self.jobs.get(job_id)
        return job if job.attempts == attempt and job.progress > 0 else None

    def ended(self, job_id: str) -> Job | None:
        job = self.jobs.get(job_id)
        return job if job.state.final else None

    def worker_up(self) -> WorkerPresence:
        """The one that is there, or as soon as there is one."""
        return until(lambda: [worker for worker in present(self.redis) if alive(worker.pid)])[0]

    def stored(self, job_id: str) -> list[str]:
        """Names of the job's files."""
        return sorted(path.name for path in (self.folder / "blobs/jobs" / job_id).glob("*"))
