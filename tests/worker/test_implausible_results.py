"""A worker compares what it is given, and what it finds, with what the model was trained on."""

from pathlib import Path

import numpy as np
import pytest

from tests.fixtures.judged_models import judged, seen, span
from tests.fixtures.settings import FactorySettings
from tests.worker.conftest import Submit
from tests.worker.test_segmentation_task import files, run, sample
from unet_factory.domain.jobs import JobState
from unet_factory.domain.plausibility import Finding, ImplausiblePolicy
from unet_factory.model.checkpoint import Checkpoint, load_checkpoint
from unet_factory_worker.child import WorkerContext

SCAN = np.random.default_rng(0).normal(size=(20, 16, 12)).astype(np.float32)  # 1 mm
WIDE = np.random.default_rng(0).normal(size=(90, 16, 12)).astype(np.float32)
FIELD_OF_VIEW_MM = span(12, 40)  # with the margin of 2: 6 to 80 mm
WHOLE_SCAN_ML = SCAN.size / 1000
REJECT = ImplausiblePolicy.REJECT


@pytest.fixture
def anterior_ml(request: pytest.FixtureRequest) -> tuple[float, float]:
    """The plausible volumes of the anterior label."""
    return getattr(request, "param", (0.0, 1e6))


@pytest.fixture
def settings(
    settings: FactorySettings, tiny_models: Path, tmp_path: Path, anterior_ml: tuple[float, float]
) -> FactorySettings:
    models = judged(tiny_models, tmp_path / "judged", seen(span(*anterior_ml), FIELD_OF_VIEW_MM))
    return settings.model_copy(update={"models_dir": models, "lease_s": 60.0})


@pytest.fixture
def checkpoint(settings: FactorySettings) -> Checkpoint:
    return load_checkpoint(settings.models_dir / "tiny.safetensors")


impossible = pytest.mark.parametrize("anterior_ml", [(2e5, 6e5)], indirect=True)


def counted() -> float:
    return sample("implausible_results_total", model="tiny")


def test_a_plausible_result_is_not_flagged(context: WorkerContext, submit: Submit) -> None:
    before = counted()
    for policy in ImplausiblePolicy:
        job = run(context, submit(SCAN, implausible=policy))
        assert (job.state, job.implausible) == (JobState.SUCCEEDED, ())
    assert counted() == before


@impossible
def test_an_implausible_volume_is_noted_and_counted(context: WorkerContext, submit: Submit) -> None:
    before = counted()
    job = run(context, submit(SCAN))
    assert job.state is JobState.SUCCEEDED
    assert job.volumes_ml is not None
    assert job.volumes_ml["anterior"] <= WHOLE_SCAN_ML
    value = round(job.volumes_ml["anterior"], 4)
    assert job.implausible == (Finding(what="volume_ml", label="anterior", value=value, expected=(1e5, 1.2e6)),)
    assert "labelmap.nii.gz" in files(context, job.id)
    assert counted() == before + 1


@impossible
def test_an_implausible_volume_fails_the_job_where_it_is_rejected(context: WorkerContext, submit: Submit) -> None:
    before = counted()
    job = run(context, submit(SCAN, implausible=REJECT))
    assert job.state is JobState.FAILED
    assert job.error is not None
    assert job.error.type.endswith(":implausible")
    assert "expected 1e+05 to 1.2e+06 ml" in job.error.detail
    assert job.error.details["implausible"] == [finding.model_dump(mode="json") for finding in job.implausible]
    assert files(context, job.id) == {"input.nii"}, "there is no result to be taken for a good one"
    assert counted() == before + 1


def test_an_implausible_field_of_view_is_rejected_before_time_is_spent(context: WorkerContext, submit: Submit) -> None:
    before = counted()
    job = run(context, submit(WIDE, implausible=REJECT))
    assert job.error is not None
    assert "field of view along R is 90 mm, expected 6 to 80 mm" in job.error.detail
    assert {"weights", "infer"}.isdisjoint(job.timings_s)
    assert counted() == before + 1


@impossible
def test_both_are_noted(context: WorkerContext, submit: Submit) -> None:
    job = run(context, submit(WIDE))
    assert [(finding.what, finding.axis, finding.label) for finding in job.implausible] == [
        ("field_of_view_mm", "R", None),
        ("volume_ml", None, "anterior"),
    ]


def test_the_callers_spacing_counts(context: WorkerContext, submit: Submit) -> None:
    job = run(context, submit(WIDE, spacing_ras_mm=(0.5, 1.0, 1.0)))
    assert job.implausible == ()
