"""The guide's backup, made while the factory works, is started elsewhere: nothing that was accepted is missing."""

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from tests.fixtures.volume_files import write_nifti
from tests.system.serve_process import ServeProcess
from unet_factory.domain.jobs import JobState

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(300)]

SETTINGS = {"device": "cpu", "precision": "float32", "threads": 1, "lease_s": 2, "calibrate": False, "silence_s": 600}


@contextmanager
def running(folder: Path, models: Path) -> Iterator[ServeProcess]:
    serve = ServeProcess(folder, models, **SETTINGS)
    try:
        yield serve
    finally:
        serve.kill()


def test_a_copy_of_the_journal_and_then_of_the_files_is_a_whole_factory(tiny_models: Path, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(size=(24, 24, 24)).astype(np.float32)
    scan = write_nifti(tmp_path / "scan.nii.gz", noise)
    copy = tmp_path / "restored" / "data"
    with running(tmp_path, tiny_models) as lost, lost.client as client:
        finished = client.wait(client.submit(scan).id)
        result = client.labelmap(finished.id, tmp_path / "first.nii.gz").read_bytes()
        os.kill(lost.pid_of(" worker "), signal.SIGSTOP)  # so that what follows waits in the queue
        queued = [client.submit(scan).id for _ in range(3)]
        deleted = client.submit(scan).id
        client.delete(deleted)
        shutil.copytree(lost.data_dir / "jobs", copy / "jobs", ignore=shutil.ignore_patterns("socket"))
        late = client.submit(scan).id
        shutil.copytree(lost.data_dir / "blobs", copy / "blobs")
    with running(copy.parent, tiny_models) as restored, restored.client as client:
        assert client.labelmap(finished.id, tmp_path / "again.nii.gz").read_bytes() == result
        for job_id in queued:
            assert client.wait(job_id).state is JobState.SUCCEEDED
            assert client.labelmap(job_id, tmp_path / "later.nii.gz").read_bytes() == result
        known = {job.id for job in client.jobs()}
    assert known == {finished.id, *queued}, f"neither {deleted}, which was deleted, nor {late}, which came too late"
