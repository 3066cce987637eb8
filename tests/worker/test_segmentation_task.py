"""A job from claim to end, in this process, on real stores."""

import dataclasses
import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from prometheus_client.registry import REGISTRY
from redis import Redis

from tests.worker.conftest import Submit
from unet_factory.domain.errors import JobExpired
from unet_factory.domain.jobs import Job, JobState, PolicyReport
from unet_factory.domain.spacing import OutsidePolicy, SnappedSpacing
from unet_factory.model.checkpoint import Checkpoint
from unet_factory.platform.blob_store import BlobStore
from unet_factory_worker.child import WorkerContext
from unet_factory_worker.segmentation_task import run_job

SCAN = np.random.default_rng(0).normal(size=(40, 34, 20)).astype(np.float32)
AFFINE = np.array([[-0.75, 0, 0, 40], [0, -1.5, 0, -7.5], [0, 0, 2.0, 3], [0, 0, 0, 1]])


def test_a_native_job_tells_all_about_itself(context: WorkerContext, submit: Submit) -> None:
    job = run(context, submit(SCAN, AFFINE))
    assert (job.state, job.progress, job.attempts, job.device) == (JobState.SUCCEEDED, 1.0, 1, "cpu")
    assert job.error is None
    assert set(job.timings_s) == {"fetch", "load", "weights", "infer", "write"}
    assert job.spacing.native == job.spacing.working == pytest.approx((0.75, 1.5, 2.0))
    assert job.spacing.requested is None
    assert job.policy == PolicyReport(outside=OutsidePolicy.CLAMP)
    assert job.weights_cached is False
    assert job.peak_bytes is not None
    assert job.peak_bytes >= 0
    assert job.finished is not None
    labels = labelmap(context, job.id)
    assert labels.shape == SCAN.shape
    np.testing.assert_array_equal(labels.affine, AFFINE)
    counts = np.bincount(np.asarray(labels.dataobj).ravel(), minlength=3)
    assert job.volumes_ml == pytest.approx({"anterior": counts[1] * 0.00225, "posterior": counts[2] * 0.00225})
    assert run(context, submit(SCAN, AFFINE)).weights_cached is True


def test_a_scan_outside_the_trained_range_is_clamped_and_says_so(context: WorkerContext, submit: Submit) -> None:
    before = sample("spacing_out_of_range_total", model="tiny")
    job = run(context, submit(SCAN, np.diag([0.3, 1.0, 5.0, 1.0])))
    assert job.state is JobState.SUCCEEDED
    assert job.spacing.working == pytest.approx((0.5, 1.0, 3.5))
    assert (job.policy.out_of_range, job.policy.resampled) == (True, True)
    assert labelmap(context, job.id).shape == SCAN.shape
    assert sample("spacing_out_of_range_total", model="tiny") == before + 1


def test_the_callers_spacing_and_working_spacing_count(context: WorkerContext, submit: Submit) -> None:
    wishes = {"spacing_ras_mm": (1.0, 1.0, 1.0), "working_spacing_mm": (2.0, 2.0, 2.0), "output": "nrrd"}
    job = run(context, submit(SCAN, AFFINE, **wishes))
    assert job.spacing.model_dump() == {"native": (1, 1, 1), "requested": (2, 2, 2), "working": (2, 2, 2)}
    assert (job.policy.out_of_range, job.policy.resampled) == (False, True)
    with context.blobs.local(job.id, "labelmap.nrrd") as path:
        assert path.read_bytes().startswith(b"NRRD")


@pytest.mark.parametrize(
    ("scan", "wishes", "problem"),
    [
        (b"no scan at all", {}, "not-a-volume"),
        (SCAN, {"outside": OutsidePolicy.REJECT, "working_spacing_mm": (9, 9, 9)}, "spacing-out-of-range"),
        (SCAN, {"checkpoint_digest": "0" * 64}, "unknown-model"),
        (SCAN, {"deadline_s": 0.0}, "deadline-exceeded"),
    ],
)
def test_what_cannot_be_done_fails_with_a_reason(
    context: WorkerContext, submit: Submit, scan: NDArray[Any] | bytes, wishes: dict[str, Any], problem: str
) -> None:
    before = sample("jobs_total", model="tiny", outcome="failed")
    job = run(context, submit(scan, **wishes))
    assert job.state is JobState.FAILED
    assert job.error is not None
    assert job.error.type.endswith(f":{problem}")
    assert sample("jobs_total", model="tiny", outcome="failed") == before + 1
    assert files(context, job.id) == {"input.nii"}


def test_an_upload_that_is_gone_fails_with_a_reason(context: WorkerContext, submit: Submit) -> None:
    job_id = submit(SCAN)
    context.blobs.delete(job_id)
    job = run(context, job_id)
    assert job.error is not None
    assert job.error.type.endswith(":job-expired")


def test_an_unexpected_error_is_logged_without_its_words(
    context: WorkerContext, submit: Submit, checkpoint: Checkpoint, caplog: pytest.LogCaptureFixture
) -> None:
    words = "DOE^JANE"

    def stumble() -> None:
        raise ValueError(words)

    in_each_window(context, checkpoint, stumble)
    job = run(context, submit(SCAN))
    assert job.error is not None
    assert job.error.type.endswith(":internal-error")
    assert "ValueError" in caplog.text
    assert "stumble" in caplog.text
    assert words not in caplog.text + job.model_dump_json()


def test_out_of_memory_is_tried_again_in_smaller_windows(
    context: WorkerContext, submit: Submit, checkpoint: Checkpoint
) -> None:
    before = sample("oom_fallbacks_total", step="windows")
    in_each_window(context, checkpoint, lambda: None, too_large=17)
    job = run(context, submit(SCAN))
    assert (job.state, job.policy.reduced_memory) == (JobState.SUCCEEDED, True)
    assert sample("oom_fallbacks_total", step="windows") == before + 1


def test_out_of_memory_twice_fails_with_a_reason(
    context: WorkerContext, submit: Submit, checkpoint: Checkpoint
) -> None:
    in_each_window(context, checkpoint, lambda: None, too_large=1)
    job = run(context, submit(SCAN))
    assert job.error is not None
    assert job.error.type.endswith(":out-of-memory")


def test_a_job_with_a_budget_runs_out_of_memory_into_a_coarser_spacing(
    context: WorkerContext, submit: Submit, checkpoint: Checkpoint
) -> None:
    """All windows of the scan's own spacing exhaust the memory; the budget says that a coarser one is welcome."""
    context.calibration.run()
    before = sample("oom_fallbacks_total", step="spacing")
    in_each_window(context, checkpoint, lambda: None, too_large=1)
    job = run(context, submit(SCAN, budget_seconds=3600.0))
    assert job.state is JobState.SUCCEEDED, job.error
    assert (job.policy.reduced_memory, job.policy.coarser_for_memory, job.policy.resampled) == (True, True, True)
    assert job.spacing.working is not None
    assert np.prod(job.spacing.working) >= 2
    assert labelmap(context, job.id).shape == SCAN.shape
    assert sample("oom_fallbacks_total", step="spacing") == before + 1


def test_a_lost_lease_stops_the_work_and_writes_nothing(
    context: WorkerContext, submit: Submit, checkpoint: Checkpoint, redis: Redis
) -> None:
    windows = []

    def lose() -> None:
        windows.append(1)
        redis.set(f"job:{job_id}:lease", "another owner")

    in_each_window(context, checkpoint, lose)
    job_id = submit(SCAN)
    job = run(context, job_id)
    assert (job.state, job.attempts) == (JobState.RUNNING, 1)
    assert "infer" not in job.timings_s
    assert len(windows) < 18
    assert files(context, job_id) == {"input.nii"}


def test_a_job_purged_while_its_result_is_put_down_leaves_nothing(context: WorkerContext, submit: Submit) -> None:
    class PurgedMeanwhile(BlobStore):
        def put(self, job_id: str, name: str, source: Path) -> None:
            context.blobs.delete(job_id)
            context.lifecycle.purge(job_id)
            super().put(job_id, name, source)

    job_id = submit(SCAN)
    run_job(job_id, dataclasses.replace(context, blobs=PurgedMeanwhile(context.settings.blob_url)))
    with pytest.raises(JobExpired):
        context.jobs.get(job_id)
    assert files(context, job_id) == set()


def test_a_job_that_is_held_or_has_ended_is_left_alone(context: WorkerContext, submit: Submit) -> None:
    held, ended = submit(SCAN), submit(SCAN)
    assert context.lifecycle.claim(held, "another owner", 60.0)
    context.lifecycle.cancel(ended)
    assert run(context, held).timings_s == {}
    assert run(context, ended).state is JobState.CANCELLED


def run(context: WorkerContext, job_id: str) -> Job:
    run_job(job_id, context)
    return context.jobs.get(job_id)


def in_each_window(
    context: WorkerContext, checkpoint: Checkpoint, happens: Callable[[], None], too_large: int = 1000
) -> None:
    """Something happens before each window of a scan of 1 mm; windows from an extent on exhaust the memory, truly."""

    def before_window(_: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        happens()
        if max(arguments[0].shape[2:]) >= too_large:
            torch.empty(2**60)

    unet, _ = context.factory.network("tiny", checkpoint.digest, SnappedSpacing(1000, 1000, 1000))
    unet.register_forward_pre_hook(before_window)


def labelmap(context: WorkerContext, job_id: str) -> nibabel.Nifti1Image:
    with context.blobs.local(job_id, "labelmap.nii.gz") as path:
        return nibabel.Nifti1Image.from_bytes(gzip.decompress(path.read_bytes()))


def files(context: WorkerContext, job_id: str) -> set[str]:
    folder = Path(context.settings.blob_url.removeprefix("file://")) / "jobs" / job_id
    return {path.name for path in folder.glob("*")}


def sample(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"unet_factory_{name}", labels) or 0.0
