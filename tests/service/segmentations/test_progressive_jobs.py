"""``progressive=true`` through HTTP: a coarse label map while the job goes on, then the one that was asked for."""

import json
from pathlib import Path

import httpx
import nibabel
import numpy as np
import pytest

from unet_factory.domain.jobs import Job, JobState
from unet_factory_client import FactoryClient, FactoryProblem

AFFINE = np.diag([0.75, 1.5, 2.0, 1.0])


def scan_file(folder: Path, extent: int) -> Path:
    voxels = np.random.default_rng(0).normal(size=(extent, extent, 20)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(voxels, AFFINE), folder / "scan.nii")
    return folder / "scan.nii"


def labels_of(answer: httpx.Response, folder: Path) -> nibabel.Nifti1Image:
    path = folder / "labels.nii.gz"
    path.write_bytes(answer.content)
    return nibabel.Nifti1Image.from_filename(path)


def events_of(http: httpx.Client, job_id: str) -> list[tuple[str, Job]]:
    """(name, job) of each event until the job is final."""
    found, name = [], ""
    with http.stream("GET", f"/segmentations/{job_id}/events") as stream:
        for line in stream.iter_lines():
            kind, _, value = line.partition(": ")
            if kind == "event":
                name = value
            elif kind == "data":
                found.append((name, Job.model_validate(json.loads(value))))
    return found


def test_a_coarse_label_map_comes_first_and_is_marked(http: httpx.Client, worker: None, tmp_path: Path) -> None:
    scan = scan_file(tmp_path, 60)
    created = http.post("/segmentations", files={"file": scan.read_bytes()}, data={"progressive": "true"})
    assert created.status_code == 202, created.text
    job_id = created.json()["id"]
    events = events_of(http, job_id)
    job = events[-1][1]
    assert job.state is JobState.SUCCEEDED, job.error
    assert job.coarse is not None
    assert job.timings_s["coarse"] > 0
    told = [found for name, found in events if name == "coarse"]
    assert [found.state for found in told] == [JobState.RUNNING]  # once, and before the end
    assert events[-1][0] == "job"
    assert [name for name, _ in events_of(http, job_id)] == ["coarse", "job"]  # to one who comes late, too
    assert np.prod(job.coarse.spacing) > 8 * np.prod(job.spacing.working or (1, 1, 1))
    coarse = http.get(f"/segmentations/{job_id}/coarse-labelmap")
    assert coarse.status_code == 200
    assert coarse.headers["X-Working-Spacing"] == ",".join(f"{mm:g}" for mm in job.coarse.spacing)
    assert "coarse" in coarse.headers["Content-Disposition"]
    native = http.get(f"/segmentations/{job_id}/labelmap")
    assert coarse.content != native.content
    for answer in (coarse, native):
        labels = labels_of(answer, tmp_path)
        assert labels.shape == (60, 60, 20)
        np.testing.assert_array_equal(labels.affine, AFFINE)


def test_a_job_without_one_says_so(http: httpx.Client, worker: None, tmp_path: Path) -> None:
    scan = scan_file(tmp_path, 12)
    with FactoryClient(str(http.base_url)) as client:
        plain = client.segment(scan, tmp_path / "labels.nii.gz")
        with pytest.raises(FactoryProblem, match="progressive=true"):
            client.coarse_labelmap(plain.id, tmp_path / "coarse.nii.gz")
        assert not (tmp_path / "coarse.nii.gz").exists()
