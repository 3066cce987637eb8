"""``unet-factory serve --workers 2``: jobs run side by side, and the death of one worker leaves the other alone."""

import os
import signal
from pathlib import Path

import nibabel
import numpy as np
import pytest

from tests.system.processes import until
from tests.system.serve_process import ServeProcess, children
from unet_factory.domain.jobs import Job, JobState

EXTENT = 144  # voxels per axis: some seconds in windows of 32

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(240)]


def test_two_workers_take_a_job_each_and_one_goes_on_when_the_other_is_killed(
    tmp_path: Path, tiny_models: Path
) -> None:
    scan = tmp_path / "noise.nii"
    voxels = np.random.default_rng(0).normal(size=(EXTENT,) * 3).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), scan)
    settings = {"lease_s": 2, "maintenance_interval_s": 0.5, "device": "cpu", "precision": "float32"}
    serve = ServeProcess(tmp_path, tiny_models, "--workers", "2", calibrate=False, **settings)
    try:
        before = serve.pids_of(" worker ")
        copies = serve.data_dir / "shared-weights"
        until(lambda: all(maps_the_only_file_of(copies, worker) for worker in before))
        with serve.client as client:
            ids = [client.submit(scan).id for _ in range(2)]

            def both() -> list[Job]:
                return [client.job(job_id) for job_id in ids]

            until(lambda: all(job.state is JobState.RUNNING and job.progress > 0 for job in both()))
            os.kill(before[0], signal.SIGKILL)
            ended = [client.wait(job_id) for job_id in ids]
            labels = [client.labelmap(job.id, tmp_path / f"{job.id}.nii.gz").read_bytes() for job in ended]
            until(lambda: len(serve.pids_of(" worker ")) == len(before) == 2)
        assert {job.state for job in ended} == {JobState.SUCCEEDED}
        assert sorted(job.attempts for job in ended) == [1, 2]
        assert labels[0] == labels[1]
        assert any(f"the worker {number} was killed by SIGKILL" in serve.log for number in (1, 2))
        assert serve.stop() == 0, serve.log
        assert not copies.exists()
    finally:
        serve.kill()


def maps_the_only_file_of(folder: Path, worker: int) -> bool:
    """Whether one of a worker's processes does; not once the file was removed or replaced."""
    files = {str(path) for path in folder.iterdir()}
    maps = [Path(f"/proc/{child}/maps").read_text().splitlines() for child in children(worker)]
    return len(files) == 1 and any(line.split(maxsplit=5)[5:] == [*files] for lines in maps for line in lines)
