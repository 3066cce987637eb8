"""A DICOM series as a job's scan: read, noted and answered on its own grid."""

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import JPEGLSLossless, RLELossless

from tests.fixtures.dicom_files import series, zipped
from tests.fixtures.settings import FactorySettings
from tests.fixtures.volume_files import affine_ras, load_nifti, phantom, reoriented
from tests.worker.conftest import Submit
from unet_factory.domain.jobs import Job, JobState
from unet_factory.volume import read_header
from unet_factory_worker.child import WorkerContext
from unet_factory_worker.segmentation_task import run_job

SCAN = phantom((20, 18, 12))


@pytest.fixture
def settings(settings: FactorySettings) -> FactorySettings:
    """Leases are tested elsewhere; on a busy machine they need not run out here."""
    return settings.model_copy(update={"lease_s": 60.0})


def run(context: WorkerContext, job_id: str) -> Job:
    run_job(job_id, context)
    return context.jobs.get(job_id)


def labelmap(context: WorkerContext, job: Job, folder: Path) -> Any:
    with context.blobs.local(job.id, "labelmap.nii.gz") as path:
        copy = folder / f"{job.id}.nii.gz"
        copy.write_bytes(path.read_bytes())
    return load_nifti(copy)


@pytest.mark.parametrize("syntax", [None, RLELossless, JPEGLSLossless])
def test_a_series_gives_what_its_nifti_gives(
    context: WorkerContext, submit: Submit, tmp_path: Path, syntax: str | None
) -> None:
    voxels, affine = reoriented(SCAN, affine_ras(20), (1, 2, 0), (-1, 1, 1))
    slices = series(voxels, affine)
    for one in slices:
        if syntax is not None:
            one.compress(syntax, generate_instance_uid=False)
    path = zipped(slices, tmp_path / "a.zip")
    of_series = run(context, submit(path.read_bytes()))
    assert (of_series.state, of_series.error, of_series.notes) == (JobState.SUCCEEDED, None, ())
    of_nifti = run(context, submit(voxels, affine))
    assert of_series.volumes_ml == pytest.approx(of_nifti.volumes_ml, rel=1e-6)
    labels, header = labelmap(context, of_series, tmp_path), read_header(path)
    assert labels.shape == header.shape
    np.testing.assert_allclose(labels.affine, header.affine, atol=1e-5)
    from_series, from_nifti = (
        np.asarray(nibabel.as_closest_canonical(image).dataobj)
        for image in (labels, labelmap(context, of_nifti, tmp_path))
    )
    np.testing.assert_array_equal(from_series, from_nifti)


def test_what_was_tolerated_is_noted(context: WorkerContext, submit: Submit, tmp_path: Path) -> None:
    slices = series(SCAN, affine_ras())
    slices[3].ImagePositionPatient[2] += 0.03
    job = run(context, submit(zipped(slices, tmp_path / "a.zip").read_bytes()))
    assert job.state is JobState.SUCCEEDED
    assert job.notes == ("tolerated slices up to 0.9% of the gap of 3.25 mm off an even spacing",)


def test_a_given_spacing_reaches_the_label_map(context: WorkerContext, submit: Submit, tmp_path: Path) -> None:
    """A single slice has none of its own across."""
    content = zipped(series(SCAN, affine_ras())[:1], tmp_path / "a.zip").read_bytes()
    job = run(context, submit(content, spacing_ras_mm=(1.0, 1.0, 2.0)))
    assert (job.state, job.spacing.native) == (JobState.SUCCEEDED, (1, 1, 2))
    assert labelmap(context, job, tmp_path).header.get_zooms() == (1, 1, 2)


def missing(slices: list[Dataset]) -> list[Dataset]:
    return slices[:3] + slices[4:]


def damaged(slices: list[Dataset]) -> list[Dataset]:
    slices[2].compress(JPEGLSLossless, generate_instance_uid=False)
    slices[2].PixelData = slices[2].PixelData[:60] + bytes(len(slices[2].PixelData) - 60)
    slices[2]["PixelData"].is_undefined_length = True
    return slices


@pytest.mark.parametrize(("change", "problem"), [(missing, "slices-missing"), (damaged, "not-a-volume")])
def test_what_cannot_be_read_fails_with_a_reason(
    context: WorkerContext, submit: Submit, tmp_path: Path, change: Any, problem: str
) -> None:
    content = zipped(change(series(SCAN, affine_ras())), tmp_path / "a.zip").read_bytes()
    job = run(context, submit(content))
    assert job.error is not None
    assert job.error.type.endswith(f":{problem}")
    assert "image" in job.error.detail
    assert "1.2.826" not in job.error.model_dump_json()
