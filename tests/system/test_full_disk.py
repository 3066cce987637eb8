"""A data folder on a disk that is really full: nothing dies of it, nothing is lost, and room can be made."""

import os
import shutil
import signal
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.fixtures.dicom_files import as_bytes, mr_series
from tests.fixtures.volume_files import write_nifti
from tests.system.processes import until
from tests.system.serve_process import ServeProcess
from unet_factory.domain.jobs import JobState
from unet_factory_client import FactoryProblem

DISK_MIB = 30
LEFT_FREE_MIB = 5  # of a floor of 6; the journal has grown a little since
STOW = {"Content-Type": 'multipart/related; type="application/dicom"; boundary=b'}
SETTINGS = {
    "lease_s": 2,
    "maintenance_interval_s": 0.5,
    "series_quiet_s": 1,
    "threads": 1,
    "device": "cpu",
    "silence_s": 600,
}
FULL = 507

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 30 MiB for the whole data folder, open to everybody as a new one is."""
    folder = tmp_path / "data"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m,mode=755", "tmpfs", str(folder)]
    if subprocess.run(mount, stderr=subprocess.DEVNULL, check=False).returncode != 0:
        pytest.skip("needs the right to mount a small file system")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def factory(disk: Path, tiny_models: Path) -> Iterator[ServeProcess]:
    serve = ServeProcess(disk.parent, tiny_models, **SETTINGS)
    assert serve.data_dir == disk
    try:
        yield serve
        assert serve.stop() == 0, serve.log
    finally:
        serve.kill()


def test_posts_until_507_then_a_delete_makes_room_for_a_new_job(factory: ServeProcess, tmp_path: Path) -> None:
    """Scans wait in the queue for a worker, so that they fill the disk."""
    scan = noise(tmp_path, 72)
    with factory.client as client, stopped(factory.pid_of(" worker ")):
        accepted = [job_id for job_id in (submitted(factory, scan) for _ in range(DISK_MIB)) if job_id]
        assert 0 < len(accepted) < DISK_MIB
        with pytest.raises(FactoryProblem) as refused:
            client.submit(scan)
        assert (refused.value.status, refused.value.type) == (FULL, "urn:unet-factory:problem:storage-full")
        assert shutil.disk_usage(factory.data_dir).free > LEFT_FREE_MIB * 2**20
        assert_answers(factory)
        client.delete(accepted.pop())
        accepted.append(until(lambda: submitted(factory, scan)))
    with factory.client as client:
        assert {client.wait(job_id).state for job_id in accepted} == {JobState.SUCCEEDED}
    assert_nothing_died(factory)


def test_stows_until_507_become_jobs_whose_deletion_makes_room(factory: ServeProcess, tmp_path: Path) -> None:
    stored = 0
    while (answer := stow(factory, stored)).status_code != FULL:
        assert answer.status_code == 200, answer.text
        stored += 1
        assert stored < 10 * DISK_MIB
    assert stored
    assert answer.json()["type"] == "urn:unet-factory:problem:storage-full"
    assert_answers(factory)
    jobs = until(lambda: found if len(found := result_jobs(factory)) == stored else None, 120)
    with factory.client as client:
        for job_id in jobs:
            client.delete(job_id)
        assert client.wait(client.submit(noise(tmp_path, 16)).id).state is JobState.SUCCEEDED
    assert stow(factory, stored).status_code == 200
    assert_nothing_died(factory)


def test_a_disk_that_others_fill_to_the_last_byte_can_still_be_cleared(factory: ServeProcess, tmp_path: Path) -> None:
    scan = noise(tmp_path, 32)
    with factory.client as client:
        kept, dropped = (client.submit(scan).id for _ in range(2))
        for job_id in (kept, dropped):
            assert client.wait(job_id).state is JobState.SUCCEEDED
        filler = factory.data_dir / "filler"
        fill(filler)
        until(lambda: deleted(factory, dropped))
        until(lambda: httpx.get(f"{factory.url}/readyz", trust_env=False).status_code == 200)
        assert client.job(kept).state is JobState.SUCCEEDED
        filler.unlink()
        again = until(lambda: submitted(factory, scan))
        assert client.wait(again).state is JobState.SUCCEEDED
        until(lambda: (factory.data_dir / "jobs" / "reserve").exists())


def test_what_lay_open_before_is_closed(factory: ServeProcess) -> None:
    for path in (factory.data_dir, *factory.data_dir.rglob("*")):
        if not path.is_symlink():
            with suppress(FileNotFoundError):
                assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path


def assert_answers(factory: ServeProcess) -> None:
    for address in ("/livez", "/metrics"):
        assert httpx.get(f"{factory.url}{address}", trust_env=False).status_code == 200


def assert_nothing_died(factory: ServeProcess) -> None:
    assert "started again" not in factory.log, factory.log
    until(lambda: httpx.get(f"{factory.url}/readyz", trust_env=False).status_code == 200)


def stow(factory: ServeProcess, number: int) -> httpx.Response:
    """One series of half a megabyte, of a study of its own."""
    uid = f"1.2.826.0.1.3680043.8.498.{number}"
    slices = mr_series(16, 128, number, StudyInstanceUID=f"{uid}.1", SeriesInstanceUID=f"{uid}.2")
    parts = [b"--b\r\nContent-Type: application/dicom\r\n\r\n%s\r\n" % as_bytes(one) for one in slices]
    url = f"{factory.url}/dicomweb/studies"
    return httpx.post(url, content=b"".join(parts) + b"--b--\r\n", headers=STOW, trust_env=False, timeout=60)


def result_jobs(factory: ServeProcess) -> list[str]:
    """Jobs that have ended; each has a folder with its results."""
    return [folder.name for folder in (factory.data_dir / "blobs" / "jobs").iterdir() if (folder / "seg.dcm").exists()]


def submitted(factory: ServeProcess, scan: Path) -> str | None:
    with factory.client as client, suppress(FactoryProblem):
        return client.submit(scan).id
    return None


def deleted(factory: ServeProcess, job_id: str) -> bool:
    with factory.client as client:
        try:
            client.delete(job_id)
        except FactoryProblem as problem:
            return problem.status in (404, 410)
    return True


def fill(path: Path) -> None:
    """Write until not one more byte finds room."""
    with path.open("wb", buffering=0) as file:
        for size in (2**20, 2**12, 1):
            with suppress(OSError):
                while file.write(b"x" * size):
                    pass


@contextmanager
def stopped(*pids: int) -> Iterator[None]:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def noise(folder: Path, extent: int) -> Path:
    path = folder / f"noise-{extent}.nii"
    return write_nifti(path, np.random.default_rng(0).normal(size=(extent,) * 3).astype(np.float32))
