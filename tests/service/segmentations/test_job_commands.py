"""``unet-factory jobs`` and ``status``: what the API knows of jobs, from the command line."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from tests.fixtures.project import DICOM_SERIES
from tests.fixtures.volume_files import write_nifti
from tests.service.conftest import Gateway
from unet_factory.domain.jobs import Job
from unet_factory.domain.segmentation_parameters import SegmentationParameters
from unet_factory_cli.commands import app
from unet_factory_client import FactoryClient, FactoryProblem


def run(gateway: Gateway, *words: object) -> Result:
    return CliRunner().invoke(app, [*map(str, words), "--url", gateway.url], env={"COLUMNS": "200"})


def test_jobs_are_listed_shown_fetched_and_deleted(gateway: Gateway, worker: None, tmp_path: Path) -> None:
    with FactoryClient(gateway.url) as client:
        of_volume = client.submit(write_nifti(tmp_path / "scan.nii.gz"), SegmentationParameters(preview=True))
        of_series = client.submit(DICOM_SERIES)
        shown = run(gateway, "jobs", "show", of_volume.id, "--wait", "--json")
        assert shown.exit_code == 0, shown.output
        assert Job.model_validate_json(shown.stdout) == client.wait(of_volume.id)
        client.wait(of_series.id)
        listed = [Job.model_validate(one) for one in json.loads(run(gateway, "jobs", "list", "--json").stdout)]
        assert {job.id: job.dicom for job in listed} == {of_volume.id: False, of_series.id: True}
        assert of_volume.id in run(gateway, "jobs", "list", "--state", "succeeded").stdout
        assert json.loads(run(gateway, "jobs", "list", "--state", "failed", "--json").stdout) == []
        files = tmp_path / "labels.nii.gz", tmp_path / "picture.png"
        done = run(gateway, "jobs", "fetch", of_volume.id, "-o", files[0], "--preview", files[1])
        assert done.exit_code == 0, done.output
        assert files[0].read_bytes() == client.labelmap(of_volume.id, tmp_path / "same").read_bytes()
        assert files[1].read_bytes().startswith(b"\x89PNG")
        report = tmp_path / "report.dcm"
        assert run(gateway, "jobs", "fetch", of_series.id, "--report", report).exit_code == 0
        assert report.read_bytes()[128:132] == b"DICM"
        refused = run(gateway, "jobs", "fetch", of_volume.id, "--report", tmp_path / "none.dcm")
        assert (refused.exit_code, (tmp_path / "none.dcm").exists()) == (1, False)
        assert json.loads(run(gateway, "jobs", "delete", of_volume.id, "--json").stdout) == {"deleted": [of_volume.id]}
        with pytest.raises(FactoryProblem, match="purged"):
            client.job(of_volume.id)
        status = json.loads(run(gateway, "status", "--json").stdout)
        assert status["workers"][0]["models"] == ["tiny"]
        now = client.status().model_dump(mode="json")
        assert {**status, "cache_used_bytes": 0} == {**now, "cache_used_bytes": 0}
        assert client.model("tiny") == client.models()[0]


def test_an_image_in_memory_comes_back_as_one(gateway: Gateway, worker: None, tmp_path: Path) -> None:
    scan = nibabel.Nifti1Image.from_filename(write_nifti(tmp_path / "scan.nii.gz"))
    with FactoryClient(gateway.url) as client:
        job = client.segment(scan)
        labels = client.label_image(job.id)
        saved = nibabel.Nifti1Image.from_filename(client.labelmap(job.id, str(tmp_path / "labels.nii.gz")))
        other = client.segment(scan, parameters=SegmentationParameters(output="nrrd"))
        with pytest.raises(ValueError, match="is no NIfTI file"):
            client.label_image(other.id)
    assert labels.affine.tobytes() == scan.affine.tobytes()
    assert np.array_equal(np.asarray(labels.dataobj), np.asarray(saved.dataobj))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["list", "--state", "done"], "allowed are queued, running, succeeded, failed, cancelled"),
        (["fetch", "0" * 32], "name at least one file"),
        (["fetch", "0" * 32, "-o", "/nowhere/x.nii.gz"], "there is no folder /nowhere"),
    ],
)
def test_wrong_words_are_said_in_a_line(gateway: Gateway, words: list[str], said: str) -> None:
    told = run(gateway, "jobs", *words)
    assert told.exit_code == 2
    assert said in told.stderr
