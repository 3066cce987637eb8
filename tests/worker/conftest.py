"""A worker's context in this process, and jobs for it."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.fixtures.settings import FactorySettings
from unet_factory.domain.jobs import Job, PolicyReport, SegmentationRequest, new_job_id
from unet_factory.domain.spacing import OutsidePolicy
from unet_factory.model.checkpoint import Checkpoint, load_checkpoint
from unet_factory_worker.child import WorkerContext, open_context

Submit = Callable[..., str]


@pytest.fixture(scope="session")
def checkpoint(tiny_models: Path) -> Checkpoint:
    return load_checkpoint(tiny_models / "tiny.safetensors")


@pytest.fixture
def context(settings: FactorySettings) -> WorkerContext:
    return open_context(settings)


@pytest.fixture
def submit(context: WorkerContext, checkpoint: Checkpoint, tmp_path: Path) -> Submit:
    """Record a job and store its scan: ``submit(voxels, affine, **request)`` gives the job's id."""

    def submit_scan(voxels: NDArray[Any] | bytes, affine: NDArray[Any] | None = None, **wishes: Any) -> str:
        job_id, scan, now = new_job_id(), tmp_path / "scan.nii", time.time()
        if isinstance(voxels, bytes):
            scan.write_bytes(voxels)
        else:
            nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4) if affine is None else affine), scan)
        context.blobs.put(job_id, "input.nii", scan)
        digest = wishes.pop("checkpoint_digest", checkpoint.digest)
        request = SegmentationRequest(model="tiny", checkpoint_digest=digest, input_name="input.nii", **wishes)
        policy = PolicyReport(outside=OutsidePolicy.CLAMP)
        context.jobs.create(Job(id=job_id, model="tiny", policy=policy, created=now, expires=now + 600), request)
        return job_id

    return submit_scan
