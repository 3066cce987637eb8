"""A job through HTTP, from the upload to the finished record, less its own inference: what the service itself costs."""

import io
import os
import statistics
import tempfile
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import httpx
import nibabel as nib
import numpy as np
from redis import Redis
from redis.client import Monitor

from benchmarks.models import SHIPPED
from benchmarks.rows import Row, area, at_least, at_most
from benchmarks.timing import quartiles
from tests.system.serve_process import ServeProcess
from unet_factory.jobs.keys import ACTIVE
from unet_factory_cli.embedded import EmbeddedServer

_HIPPOCAMPUS, _DICOM = Path("examples/hippocampus/images/hippocampus_004.nii.gz"), Path("examples/dicom")
_JOBS, _LONG_JOBS, _AT_ONCE = 15, 3, 60
_RESTS_WITHIN_S = 240.0


class _Upload(NamedTuple):
    model: str
    name: str
    content: bytes
    more: Mapping[str, str] = MappingProxyType({})


@area("http", "A job through HTTP")
def http() -> Iterator[Row]:
    with _factory() as factory:
        factory.rest()
        tiny = _Upload("hippocampus-mr", "scan.nii.gz", _noise((16, 16, 16), (1.0, 1.0, 1.0)))
        scans = {
            "16 x 16 x 16": (tiny, 15, "30 ms"),
            "hippocampus, 1 mm": (_Upload("hippocampus-mr", "scan.nii.gz", _HIPPOCAMPUS.read_bytes()), 20, "42 ms"),
            "heart, 128 x 128 x 10": (
                _Upload("heart-mr", "scan.nii.gz", _noise((128, 128, 10), (2, 2, 8))),
                40,
                "109 ms",
            ),
            "DICOM in, SEG and SR out": (_Upload("hippocampus-mr", "series.zip", _zipped(_DICOM)), 120, "280 ms"),
        }
        for name, (upload, aim_ms, before) in scans.items():
            yield factory.overhead(f"{name}, beyond inference", upload, aim_ms, before)
        yield from factory.shares(_Upload("heart-mr", "scan.nii.gz", _noise((256, 256, 36), (1.5, 1.5, 5))))
        yield factory.cpu_time(tiny)
        yield from factory.commands(tiny)
        yield factory.throughput(tiny)


class _Factory:
    """``unet-factory serve`` with the shipped models, and its job store looked at from outside."""

    def __init__(self, serve: ServeProcess) -> None:
        self._serve = serve
        self._client = httpx.Client(base_url=serve.url, timeout=300, trust_env=False)
        self._redis = Redis.from_url(EmbeddedServer.url_in(serve.data_dir / "jobs"))

    def rest(self) -> None:
        """Wait until the worker has measured what its models cost, which it does when it starts."""
        deadline = time.monotonic() + _RESTS_WITHIN_S
        while time.monotonic() < deadline:
            before_s = self._cpu_s()
            time.sleep(3)
            if self._cpu_s() - before_s < 0.3:
                return

    def overhead(self, name: str, upload: _Upload, aim_ms: float, before: str) -> Row:
        """From sending the request to the answer that the job has ended, less its stage ``infer``."""
        self._segment(upload)
        took_ms = []
        for _ in range(_JOBS):
            started = time.perf_counter()
            job = self._segment(upload)
            took_ms.append((time.perf_counter() - started - job["timings_s"]["infer"]) * 1000)
        return Row(
            name=name,
            value=statistics.median(took_ms),
            unit="ms",
            spread=quartiles(tuple(took_ms)),
            aim=at_most(aim_ms),
            before=before,
        )

    def shares(self, upload: _Upload) -> Iterator[Row]:
        """Of the time of a job of seconds: what lies outside its stage ``infer``, and what a first label map takes."""
        beyond, coarse = [], []
        for _ in range(_LONG_JOBS):
            started = time.perf_counter()
            job = self._segment(upload)
            took_s = time.perf_counter() - started
            beyond.append(100 * (1 - job["timings_s"]["infer"] / took_s))
            job = self._segment(upload._replace(more={"progressive": "true"}))
            coarse.append(100 * job["coarse"]["seconds"] / sum(job["timings_s"].values()))
        name, note = "heart, 256 x 256 x 36", f"a job of {took_s:.1f} s"
        yield _share(f"{name}, beyond inference", beyond, 2, note)
        yield _share(f"{name}, until the coarse label map of a progressive job", coarse, 20, note)

    def commands(self, upload: _Upload) -> Iterator[Row]:
        """What one job has the store do, less what it does anyway in that time."""
        self._segment(upload)
        idle, seconds = self._commands_while(lambda: time.sleep(5))
        busy, took_s = self._commands_while(lambda: [self._segment(upload) for _ in range(_JOBS)])
        sent, done = ((busy[kind] - idle[kind] * took_s / seconds) / _JOBS for kind in ("sent", "executed"))
        yield Row(name="commands that one job sends to Redis", value=sent, unit="", aim=at_most(40))
        yield Row(name="commands executed, those within scripts included", value=done, unit="", before="110")

    def cpu_time(self, upload: _Upload) -> Row:
        """What one job costs in all processes together, its inference and the redundant looks of idle ones included."""
        before_s = self._cpu_s()
        for _ in range(_JOBS):
            self._segment(upload)
        took_ms = (self._cpu_s() - before_s) / _JOBS * 1000
        return Row(name="CPU time of a small job in all processes, its inference included", value=took_ms, unit="ms")

    def _cpu_s(self) -> float:
        ticks = 0
        for pid in self._serve.descendants():
            after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(after_name[11]) + int(after_name[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def throughput(self, upload: _Upload) -> Row:
        """With one worker, from the first upload to the end of the last job."""
        started = time.perf_counter()
        for _ in range(_AT_ONCE):
            self._segment(upload, wait_s=0)
        while self._redis.zcard(ACTIVE):
            time.sleep(0.01)
        rate = _AT_ONCE / (time.perf_counter() - started)
        return Row(name="small jobs with one worker", value=rate, unit="/s", aim=at_least(50), before="21 /s")

    def _segment(self, upload: _Upload, wait_s: int = 300) -> dict[str, Any]:
        answer = self._client.post(
            "/segmentations",
            files={"file": (upload.name, upload.content)},
            data={"model": upload.model, **upload.more},
            headers={"Prefer": f"wait={wait_s}"},
        )
        job: dict[str, Any] = answer.raise_for_status().json()
        assert not wait_s or job["state"] == "succeeded", job
        return job

    def _commands_while(self, work: Any) -> tuple[Counter[str], float]:
        counted: Counter[str] = Counter()
        monitor = Monitor(self._redis.connection_pool)  # type: ignore[no-untyped-call]

        def listen() -> None:
            for command in monitor.listen():  # type: ignore[no-untyped-call]
                counted["executed"] += 1
                counted["sent"] += command["client_type"] != "lua"
                if command["command"].startswith("ECHO"):
                    return

        with monitor:
            listener = threading.Thread(target=listen)
            listener.start()
            started = time.perf_counter()
            work()
            took_s = time.perf_counter() - started
            self._redis.echo("done")
            listener.join()
        return counted, took_s


def _share(name: str, shares: Sequence[float], aim: float, note: str) -> Row:
    spread = quartiles(tuple(shares))
    return Row(name=name, value=statistics.median(shares), unit="%", spread=spread, aim=at_most(aim), note=note)


@contextmanager
def _factory() -> Iterator[_Factory]:
    with tempfile.TemporaryDirectory() as name:
        serve = ServeProcess(Path(name), SHIPPED)
        try:
            yield _Factory(serve)
        finally:
            serve.stop()


def _noise(shape: tuple[int, int, int], spacing_mm: tuple[float, float, float]) -> bytes:
    voxels = np.random.default_rng(0).normal(100, 20, shape).astype(np.int16)
    image = nib.Nifti1Image(voxels, np.diag([*spacing_mm, 1.0]))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scan.nii.gz"
        nib.save(image, path)
        return path.read_bytes()


def _zipped(folder: Path) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for path in sorted(folder.rglob("*.dcm")):
            archive.write(path, path.name)
    return content.getvalue()
