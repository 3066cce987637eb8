"""One scan whose windows several workers share: how long it takes, and what it costs all processes together."""

import hashlib
import tempfile
import time
from pathlib import Path

import httpx

from benchmarks.machine import Machine, this_machine
from benchmarks.models import SHIPPED
from benchmarks.scale.costs import cpu_s, noise
from tests.system.processes import until
from tests.system.serve_process import ServeProcess
from unet_factory.domain.frozen import Frozen

WORKERS = (1, 2, 4)
_JOBS = 2
_EXTENT = 128  # voxels per axis, at 1 mm


class SharedRun(Frozen):
    """Means of some jobs: seconds of the stage ``infer`` on the clock, and CPU seconds of a job in all workers."""

    workers: int
    infer_s: float
    worker_s: float
    digest: str


class SharedRuns(Frozen):
    """``scan`` in words; each worker has one thread."""

    machine: Machine
    scan: str
    runs: tuple[SharedRun, ...]


def measure_shared() -> SharedRuns:
    """
    Raises:
        AssertionError: the label maps differ.
    """
    machine, content = this_machine(), noise((_EXTENT,) * 3, (1.0, 1.0, 1.0))
    runs = tuple(_run(workers, content) for workers in WORKERS)
    assert len({run.digest for run in runs}) == 1, runs
    return SharedRuns(machine=machine, scan=f"hippocampus-mr, {_EXTENT} x {_EXTENT} x {_EXTENT}", runs=runs)


def _run(workers: int, content: bytes) -> SharedRun:
    with tempfile.TemporaryDirectory() as name:
        settings = {"threads": 1, "device": "cpu", "calibrate": False, "spread_windows": 2}
        serve = ServeProcess(Path(name), SHIPPED, "--workers", str(workers), **settings)
        try:
            with httpx.Client(base_url=serve.url, timeout=900, trust_env=False) as client:
                until(lambda: len(client.get("/status").json()["workers"]) == workers, 120)
                _segment(client, content)
                before_s, infer_s, digests = cpu_s(serve)["worker"], 0.0, set()
                for _ in range(_JOBS):
                    took_s, digest = _segment(client, content)
                    infer_s += took_s / _JOBS
                    digests.add(digest)
                worker_s = (cpu_s(serve)["worker"] - before_s) / _JOBS
        finally:
            serve.stop()
    assert len(digests) == 1
    return SharedRun(workers=workers, infer_s=round(infer_s, 2), worker_s=round(worker_s, 2), digest=digests.pop())


def _segment(client: httpx.Client, content: bytes) -> tuple[float, str]:
    """Seconds of inference, and the digest of the label map."""
    answer = client.post(
        "/segmentations",
        files={"file": ("scan.nii.gz", content)},
        data={"model": "hippocampus-mr"},
        headers={"Prefer": "wait=0"},
    )
    job_id = answer.raise_for_status().json()["id"]
    until(lambda: client.get(f"/segmentations/{job_id}").json()["state"] not in ("queued", "running"), 900)
    time.sleep(0.5)  # helpers notice that nothing is left
    job = client.get(f"/segmentations/{job_id}").raise_for_status().json()
    assert job["state"] == "succeeded", job
    labels = client.get(f"/segmentations/{job_id}/labelmap").raise_for_status().content
    return job["timings_s"]["infer"], hashlib.sha256(labels).hexdigest()
