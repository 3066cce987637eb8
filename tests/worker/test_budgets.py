"""Jobs with a budget, in this process on real stores: what is chosen, what is refused, and what is told."""

import nibabel
import numpy as np
import pytest
from redis import Redis

from tests.worker.conftest import Submit
from unet_factory.domain.jobs import Job, JobState
from unet_factory.model.checkpoint import Checkpoint
from unet_factory_worker.child import WorkerContext
from unet_factory_worker.computing import GaveWay
from unet_factory_worker.segmentation_task import run_job

SCAN = np.random.default_rng(0).normal(size=(36, 30, 30)).astype(np.float32)
AMPLE_S, AMPLE_BYTES = 3600.0, 2**40


@pytest.fixture
def calibrated(context: WorkerContext, redis: Redis) -> WorkerContext:
    context.calibration.run()
    return context


def run(context: WorkerContext, job_id: str) -> Job:
    run_job(job_id, context)
    return context.jobs.get(job_id)


def test_an_ample_budget_changes_nothing_and_is_accounted_for(calibrated: WorkerContext, submit: Submit) -> None:
    job = run(calibrated, submit(SCAN, budget_seconds=AMPLE_S, budget_bytes=AMPLE_BYTES))
    assert job.state is JobState.SUCCEEDED
    assert job.spacing.working == job.spacing.native
    budget = job.budget
    assert budget is not None
    assert (budget.seconds, budget.bytes, budget.kept) == (AMPLE_S, AMPLE_BYTES, True)
    assert budget.predicted_seconds > 0
    assert budget.spent_bytes == job.peak_bytes
    assert budget.spent_seconds is not None
    assert budget.spent_seconds >= sum(job.timings_s.values()) * 0.99
    assert run(calibrated, submit(SCAN)).budget is None


def test_a_budget_of_memory_is_met_by_a_coarser_spacing(
    calibrated: WorkerContext, submit: Submit, checkpoint: Checkpoint
) -> None:
    """Between what the scan's own spacing needs and what the coarsest needs; the grid of the answer stays."""
    from unet_factory.domain.quote import coarser_plans, priced_plans
    from unet_factory.domain.spacing import OutsidePolicy

    costs = calibrated.costs.model(calibrated.kind, checkpoint.digest)
    plans = coarser_plans((1.0, 1.0, 1.0), checkpoint.manifest.grid, OutsidePolicy.CLAMP)
    prices = [one.price for one in priced_plans(checkpoint.manifest, SCAN.shape, plans, costs)]
    needed = [price.peak_bytes_high for price in prices if price is not None]
    allowed = (needed[0] + min(needed)) // 2
    job = run(calibrated, submit(SCAN, budget_bytes=allowed))
    assert job.state is JobState.SUCCEEDED, job.error
    assert job.spacing.working is not None
    assert max(job.spacing.working) > 1.0
    assert job.policy.resampled
    assert job.budget is not None
    assert job.budget.predicted_bytes <= allowed
    with calibrated.blobs.local(job.id, "labelmap.nii.gz") as path:
        labels = nibabel.Nifti1Image.from_filename(path)
        assert labels.shape == SCAN.shape
        np.testing.assert_array_equal(labels.affine, np.eye(4))


def test_a_progressive_job_keeps_its_budget_with_its_first_look_in_it(
    calibrated: WorkerContext, submit: Submit
) -> None:
    plain, progressive = (
        run(calibrated, submit(SCAN, budget_seconds=AMPLE_S, progressive=progressive)).budget
        for progressive in (False, True)
    )
    assert plain is not None
    assert progressive is not None
    assert progressive.seconds == AMPLE_S  # as it was given
    assert progressive.predicted_seconds > plain.predicted_seconds * 1.05  # the one job just before refines little


def test_an_impossible_budget_is_refused_with_the_least_that_would_do(
    calibrated: WorkerContext, submit: Submit
) -> None:
    job = run(calibrated, submit(SCAN, budget_seconds=1e-6))
    assert job.state is JobState.FAILED
    assert job.error is not None
    assert job.error.type.endswith(":budget-too-small")
    assert "infer" not in job.timings_s
    assert job.error.details["least_seconds"] > 1e-6
    again = run(calibrated, submit(SCAN, budget_bytes=2 * job.error.details["least_bytes"]))
    assert again.state is JobState.SUCCEEDED, again.error


def test_a_worker_that_was_never_measured_measures_first(
    context: WorkerContext, submit: Submit, checkpoint: Checkpoint
) -> None:
    assert context.costs.model(context.kind, checkpoint.digest) is None
    job = run(context, submit(SCAN, budget_seconds=AMPLE_S))
    assert job.state is JobState.SUCCEEDED, job.error
    assert job.timings_s["calibrate"] > 0
    assert job.budget is not None
    assert job.budget.spent_seconds is not None
    total_s = sum(job.timings_s.values())
    assert job.budget.spent_seconds < total_s  # what was measured for all later jobs is not this one's to pay
    assert "calibrate" not in run(context, submit(SCAN, budget_seconds=AMPLE_S)).timings_s


def test_calibration_gives_way_to_jobs_and_goes_on_where_it_was(context: WorkerContext, checkpoint: Checkpoint) -> None:
    calibration, digest = context.calibration, checkpoint.digest
    with context.computing.job(), pytest.raises(GaveWay):
        calibration.run()
    assert context.costs.calibrations(context.kind, digest) == 0
    calibration.run()
    known = context.costs.calibrations(context.kind, digest)
    assert known > 0
    calibration.run()
    assert context.costs.calibrations(context.kind, digest) == known
