"""The stage that makes DICOM results, as a job goes through it."""

import dataclasses
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from pydicom import Dataset, dcmread
from redis import Redis

from tests.fixtures.dicom_files import series, zipped
from tests.fixtures.dicom_results import frames_by_source
from tests.fixtures.settings import FactorySettings
from tests.fixtures.volume_files import affine_ras, phantom, reoriented
from tests.worker.conftest import Submit
from unet_factory.domain.jobs import Job, JobState
from unet_factory.domain.spacing import SnappedSpacing
from unet_factory.model.checkpoint import Checkpoint
from unet_factory.platform.blob_store import BlobStore
from unet_factory_worker.child import WorkerContext
from unet_factory_worker.segmentation_task import run_job


@pytest.fixture
def settings(settings: FactorySettings) -> FactorySettings:
    """Leases are tested elsewhere; on a busy machine they need not run out here."""
    return settings.model_copy(update={"lease_s": 60.0})


@pytest.fixture
def slices() -> list[Dataset]:
    return series(*reoriented(phantom((20, 18, 12)), affine_ras(20), (1, 2, 0), (-1, 1, 1)))


@pytest.fixture
def scan(slices: list[Dataset], tmp_path: Path) -> bytes:
    return zipped(slices, tmp_path / "a.zip").read_bytes()


def test_the_results_say_what_the_label_map_says(
    context: WorkerContext, submit: Submit, scan: bytes, slices: list[Dataset], tmp_path: Path
) -> None:
    job = run(context, submit(scan))
    assert job.state is JobState.SUCCEEDED
    assert list(job.timings_s) == ["fetch", "load", "weights", "infer", "write", "dicom"]
    seg, report = blob(context, job, "seg.dcm", tmp_path), dcmread(blob(context, job, "report.dcm", tmp_path))
    labelmap: Any = nibabel.load(blob(context, job, "labelmap.nii.gz", tmp_path))
    values = np.asarray(labelmap.dataobj)
    assert values.any()
    # the label map's slices ascend along the normal, by the numbers of the images or against them
    by_position = sorted(slices, key=lambda one: float(along_normal(one)))
    decoded = frames_by_source(seg)
    for k, one in enumerate(by_position):
        expected = decoded.get((str(one.SOPInstanceUID), None), np.zeros((values.shape[1], values.shape[0]), np.uint8))
        np.testing.assert_array_equal(expected, values[:, :, k].T)
    told = [float(item.MeasuredValueSequence[0].NumericValue) for item in contents(report) if item.ValueType == "NUM"]
    assert told == pytest.approx(list((job.volumes_ml or {}).values()), rel=1e-5)
    assert dcmread(seg).StudyInstanceUID == report.StudyInstanceUID == slices[0].StudyInstanceUID


def test_a_job_done_again_delivers_the_same_bytes(
    context: WorkerContext, submit: Submit, scan: bytes, redis: Redis, tmp_path: Path
) -> None:
    """As after a worker was lost just before the end: what it has delivered and what its successor does are one."""

    class LostAtTheEnd(BlobStore):
        def put(self, job_id: str, name: str, source: Path) -> None:
            super().put(job_id, name, source)
            if name == "report.dcm":
                redis.delete(f"job:{job_id}:lease")

    job_id = submit(scan)
    run_job(job_id, dataclasses.replace(context, blobs=LostAtTheEnd(context.settings.blob_url)))
    lost = context.jobs.get(job_id)
    assert (lost.state, lost.attempts) == (JobState.RUNNING, 1)
    names = ("seg.dcm", "report.dcm")
    before = [blob(context, lost, name, tmp_path).read_bytes() for name in names]
    assert context.lifecycle.requeue(job_id)
    job = run(context, job_id)
    assert (job.state, job.attempts) == (JobState.SUCCEEDED, 2)
    assert [blob(context, job, name, tmp_path).read_bytes() for name in names] == before


def test_a_label_map_segmentation_is_made_on_request(
    context: WorkerContext, submit: Submit, scan: bytes, tmp_path: Path
) -> None:
    job = run(context, submit(scan, seg_type="labelmap"))
    assert dcmread(blob(context, job, "seg.dcm", tmp_path)).SegmentationType == "LABELMAP"


def test_a_scan_that_nothing_can_refer_to_fails_with_a_reason(
    context: WorkerContext, submit: Submit, slices: list[Dataset], tmp_path: Path
) -> None:
    for one in slices:
        del one.StudyInstanceUID
    job = run(context, submit(zipped(slices, tmp_path / "a.zip").read_bytes()))
    assert job.error is not None
    assert job.error.type.endswith(":dicom-incomplete")


def test_a_scan_is_parsed_once(context: WorkerContext, submit: Submit, scan: bytes, checkpoint: Checkpoint) -> None:
    """Once it is loaded, a job needs its upload no more: neither for the label map nor for the DICOM results."""

    def lose_upload(*_: object) -> None:
        context.blobs.remove(job_id, "input.nii")

    unet, _ = context.factory.network("tiny", checkpoint.digest, SnappedSpacing(1000, 1000, 1000))
    unet.register_forward_pre_hook(lose_upload)
    job_id = submit(scan, spacing_ras_mm=(1.0, 1.0, 1.0))
    job = run(context, job_id)
    assert job.state is JobState.SUCCEEDED, job.error
    assert context.blobs.names(job_id) == ["labelmap.nii.gz", "report.dcm", "seg.dcm"]


def test_other_scans_have_no_such_results(context: WorkerContext, submit: Submit) -> None:
    job = run(context, submit(phantom((20, 18, 12))))
    assert (job.state, "dicom" in job.timings_s) == (JobState.SUCCEEDED, False)
    assert context.blobs.names(job.id) == ["input.nii", "labelmap.nii.gz"]


def run(context: WorkerContext, job_id: str) -> Job:
    run_job(job_id, context)
    return context.jobs.get(job_id)


def blob(context: WorkerContext, job: Job, name: str, folder: Path) -> Path:
    copy = folder / f"{job.id}-{name}"
    with context.blobs.local(job.id, name) as path:
        copy.write_bytes(path.read_bytes())
    return copy


def along_normal(one: Dataset) -> float:
    cosines = np.array(one.ImageOrientationPatient, float).reshape(2, 3)
    return float(np.cross(*cosines) @ np.array(one.ImagePositionPatient, float))


def contents(item: Dataset) -> list[Dataset]:
    return [item, *(inner for part in item.get("ContentSequence", ()) for inner in contents(part))]
