"""What a job costs each part of the factory: CPU seconds of each process, and bytes in the store of uploads.

CPU time hardly depends on what else the machine does, so it is what a simulation of other machines can stand on.
"""

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import nibabel as nib
import numpy as np

from benchmarks.machine import Machine, this_machine
from benchmarks.models import SHIPPED
from tests.system.serve_process import ServeProcess, children, command_line
from unet_factory.domain.frozen import Frozen

JOBS = 8
_IDLE_S = 10.0
_PARTS = {"gateway": " gateway ", "worker": " worker", "job store": "/jobs/", "cache": "/cache/"}


class Cost(Frozen):
    """Of one job: CPU seconds by part, and bytes of upload and label map.

    The worker has one thread, so its CPU seconds are about the time that it is busy.
    """

    scan: str
    share: float
    gateway_s: float
    worker_s: float
    store_s: float
    cache_s: float
    upload_bytes: int
    result_bytes: int


class Costs(Frozen):
    """The mixture of scans, and where it was measured."""

    machine: Machine
    jobs: int
    kinds: tuple[Cost, ...]


def measure() -> Costs:
    """Run each kind of scan through HTTP, one job after the other, with one worker of one thread."""
    scans = {
        ("hippocampus-mr, 35 x 51 x 35", "hippocampus-mr", 0.5): Path(
            "examples/hippocampus/images/hippocampus_004.nii.gz"
        ).read_bytes(),
        ("heart-mr, 256 x 256 x 12", "heart-mr", 0.4): noise((256, 256, 12), (1.4, 1.4, 8.0)),
        ("heart-mr, 128 x 128 x 128", "heart-mr", 0.1): noise((128, 128, 128), (1.5, 1.5, 4.0)),
    }
    with _factory() as serve, httpx.Client(base_url=serve.url, timeout=300, trust_env=False) as client:
        idle = _idle_per_s(serve)
        kinds = tuple(
            _cost(serve, client, idle, name, model, share, content) for (name, model, share), content in scans.items()
        )
    return Costs(machine=this_machine(), jobs=JOBS, kinds=kinds)


def _cost(
    serve: ServeProcess,
    client: httpx.Client,
    idle: dict[str, float],
    name: str,
    model: str,
    share: float,
    content: bytes,
) -> Cost:
    result_bytes = _segment(client, model, content)  # makes the network, which later jobs find
    before, started = cpu_s(serve), time.monotonic()
    for _ in range(JOBS):
        _segment(client, model, content)
    seconds, after = time.monotonic() - started, cpu_s(serve)
    spent = {part: max(0.0, (after[part] - before[part] - idle[part] * seconds) / JOBS) for part in _PARTS}
    return Cost(
        scan=name,
        share=share,
        gateway_s=round(spent["gateway"], 5),
        worker_s=round(spent["worker"], 5),
        store_s=round(spent["job store"], 5),
        cache_s=round(spent["cache"], 5),
        upload_bytes=len(content),
        result_bytes=result_bytes,
    )


def _segment(client: httpx.Client, model: str, content: bytes) -> int:
    """As a client does: upload and wait, fetch the label map, delete."""
    answer = client.post(
        "/segmentations",
        files={"file": ("scan.nii.gz", content)},
        data={"model": model},
        headers={"Prefer": "wait=300"},
    )
    job = answer.raise_for_status().json()
    assert job["state"] == "succeeded", job
    labels = client.get(f"/segmentations/{job['id']}/labelmap").raise_for_status()
    client.delete(f"/segmentations/{job['id']}").raise_for_status()
    return len(labels.content)


def _idle_per_s(serve: ServeProcess) -> dict[str, float]:
    """What each part spends a second without any job."""
    before, started = cpu_s(serve), time.monotonic()
    time.sleep(_IDLE_S)
    seconds, after = time.monotonic() - started, cpu_s(serve)
    return {part: (after[part] - before[part]) / seconds for part in _PARTS}


def cpu_s(serve: ServeProcess) -> dict[str, float]:
    """CPU seconds of each part until now."""
    spent = dict.fromkeys(_PARTS, 0.0)
    for top in children(serve.process.pid):
        line = command_line(top)
        for part, word in _PARTS.items():
            if word in line:
                spent[part] += sum(map(cpu_seconds, (top, *children(top))))
    return spent


def cpu_seconds(pid: int) -> float:
    """Of a process until now."""
    after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def _factory() -> Iterator[ServeProcess]:
    with tempfile.TemporaryDirectory() as name:
        serve = ServeProcess(Path(name), SHIPPED, threads=1, device="cpu", calibrate=False)
        try:
            yield serve
        finally:
            serve.stop()


def noise(shape: tuple[int, int, int], spacing_mm: tuple[float, float, float]) -> bytes:
    voxels = np.random.default_rng(0).normal(100, 20, shape).astype(np.int16)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scan.nii.gz"
        nib.save(nib.Nifti1Image(voxels, np.diag([*spacing_mm, 1.0])), path)
        return path.read_bytes()
