"""A whole job through HTTP, from the upload to the label map in hand, against segmenting in process with a network of
one fixed spacing: by our own code, MONAI's and nnU-Net's.
"""

import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple, Protocol

import nibabel
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.models import HEART, HIPPOCAMPUS, SHIPPED
from benchmarks.other_ways import NNUNET, NO_NNUNET, fixed_network, monai, nnunet
from benchmarks.rows import Bound, Row, area, at_most
from benchmarks.timing import Sample, interleaved, timed_row
from tests.system.serve_process import ServeProcess
from unet_factory.domain.spacing import SpacingMm
from unet_factory.model.preprocessing import resample
from unet_factory.volume import read_volume
from unet_factory_client import FactoryClient, Job, SegmentationParameters

_SCAN = Path("examples/hippocampus/images/hippocampus_004.nii.gz")
_ROUNDS = 5
_OURS, _FIXED = "ours", "our own code at the fixed spacing"


class _Case(NamedTuple):
    """``times`` and ``memory``: how many times the others' we aim to stay below."""

    name: str
    model: Path
    scan_mm: SpacingMm
    fixed_mm: SpacingMm
    times: float
    memory: float


_CASES = (
    _Case("hippocampus, 2x2x2 mm", HIPPOCAMPUS, (2.0, 2.0, 2.0), (1.0, 1.0, 1.0), 12, 20),
    _Case("heart, 3x3x8 mm", HEART, (3.0, 3.0, 8.0), (1.5, 1.5, 5.0), 25, 4),
)
_TIMES_OWN = 5


class _Way(Protocol):
    def run(self) -> object: ...

    def peak_bytes(self) -> int: ...


@area("whole", "A whole job against other ways")
def whole() -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as name:
        serve = ServeProcess(Path(name), SHIPPED, calibrate=False)
        try:
            for case in _CASES:
                yield from _rows(case, serve.client, Path(name))
        finally:
            serve.stop()
    if not NNUNET.exists():
        yield Row(name="nnU-Net", value=None, unit="ms", note=NO_NNUNET)


def _rows(case: _Case, client: FactoryClient, folder: Path) -> Iterator[Row]:
    scan, network = _scan(case, folder), fixed_network(case.model, case.fixed_mm, folder)
    with ExitStack() as stack:
        ours, fixed = _Service(client, case.model.stem, scan), _Service(client, case.model.stem, scan, case.fixed_mm)
        others: dict[str, _Way] = {"MONAI": stack.enter_context(monai(network, scan, folder))}
        if NNUNET.exists():
            others["nnU-Net"] = stack.enter_context(nnunet(network, scan, folder))
        ways: dict[str, _Way] = {_OURS: ours, _FIXED: fixed, **others}
        samples = interleaved({name: way.run for name, way in ways.items()}, rounds=_ROUNDS)
        peaks = {name: way.peak_bytes() for name, way in ways.items()}
    yield from _times(case, samples, others, note=f"{ours.beside_inference_ms:.0f} ms of it are beside inference")
    for name in (_FIXED, *others):
        aim = None if name == _FIXED else _times_below(case.memory)
        yield Row(
            name=f"{case.name}: memory",
            value=peaks[_OURS] / 1e6,
            unit="MB",
            against=f"{name}, {peaks[name] / 1e6:.0f} MB",
            ratio=peaks[_OURS] / peaks[name],
            aim=aim,
        )


def _times(case: _Case, samples: Mapping[str, Sample], others: Mapping[str, object], note: str) -> Iterator[Row]:
    for name in (_FIXED, *others):
        aim = _times_below(_TIMES_OWN if name == _FIXED else case.times)
        row = timed_row(f"{case.name}: from the upload to the label map", samples, _OURS, name, aim=aim)
        update = {"against": f"{name}, {samples[name].median_s * 1000:.0f} ms", "note": note if name == _FIXED else ""}
        yield row.model_copy(update=update)


def _times_below(factor: float) -> Bound:
    return at_most(round(1 / factor, 3))


class _Service:
    """A job at the scan's own spacing, or at another."""

    def __init__(self, client: FactoryClient, model: str, scan: Path, working_mm: SpacingMm | None = None) -> None:
        self._client, self._scan = client, scan
        self._wishes = SegmentationParameters(model=model, working_spacing_mm=working_mm)
        self._job: Job | None = None
        self._beside_inference_s: list[float] = []

    def run(self) -> None:
        started = time.perf_counter()
        self._job = self._client.segment(self._scan, self._scan.with_name("ours.nii.gz"), self._wishes)
        self._beside_inference_s.append(time.perf_counter() - started - self._job.timings_s["infer"])

    @property
    def beside_inference_ms(self) -> float:
        return 1000 * statistics.median(self._beside_inference_s)

    def peak_bytes(self) -> int:
        assert self._job is not None
        return self._job.peak_bytes or 0


def _scan(case: _Case, folder: Path) -> Path:
    """A file at ``scan_mm``: an example scan, coarsened, or noise where none comes with the source."""
    path = folder / f"{case.model.stem}.nii.gz"
    voxels = _coarsened(case.scan_mm) if case.model == HIPPOCAMPUS else _noise((108, 123, 11))
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([*case.scan_mm, 1.0])), path)
    return path


def _coarsened(spacing_mm: SpacingMm) -> NDArray[np.float32]:
    scan = read_volume(_SCAN)
    coarse: NDArray[np.float32] = resample(torch.from_numpy(scan.data), scan.spacing_ras_mm, spacing_mm).numpy()
    return coarse


def _noise(shape: tuple[int, int, int]) -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(100, 20, shape).astype(np.float32)
