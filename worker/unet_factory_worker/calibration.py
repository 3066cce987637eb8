"""Measures a checkpoint that this kind of worker has never run, on scans of noise, while no job is there."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import nibabel
import numpy as np
import torch
from redis.exceptions import RedisError

from unet_factory.domain.cost_model import Observation
from unet_factory.domain.manifest import Manifest, divisors_of
from unet_factory.domain.precision import Precision
from unet_factory.domain.quote import WorkerKind
from unet_factory.domain.spacing import OutsidePolicy, SnappedSpacing, SpacingMm, SpacingPlan, plan_spacing
from unet_factory.domain.windows import round_up
from unet_factory.domain.workload import workload_of
from unet_factory.jobs.costs import CostStore
from unet_factory.model.inference import Execution, segment_scan
from unet_factory.platform.blob_store import BlobStore
from unet_factory.platform.process_memory import return_freed_memory
from unet_factory.volume import read_volume, write_labelmap
from unet_factory_worker.computing import Computing
from unet_factory_worker.costs import observation
from unet_factory_worker.device import PeakMemory
from unet_factory_worker.factory import WeightFactory
from unet_factory_worker.loaded_models import LoadedModels

ROUNDS = 2

Extents = tuple[int, int, int]


class Trial(NamedTuple):
    """A scan of noise, and the windows to segment it in."""

    shape: Extents
    plan: SpacingPlan
    window: Extents
    warm_up: bool = False


def trials_for(manifest: Manifest) -> list[Trial]:
    """A few scans that tell the terms of the price apart, all together about half of the model's largest window."""
    finest, coarsest = SnappedSpacing(*manifest.grid.min_um), SnappedSpacing(*manifest.grid.max_um)
    half, quarter = _part(manifest, finest, 2), _part(manifest, finest, 4)
    coarse_half = _part(manifest, coarsest, 2)
    doubled = (2 * finest.mm[0], 2 * finest.mm[1], 2 * finest.mm[2])
    native, resampled = _plan(manifest, finest.mm), _plan(manifest, finest.mm, doubled)
    return [
        Trial(quarter, native, quarter),
        Trial(half, native, half),
        Trial((half[0] + quarter[0], quarter[1], quarter[2]), native, quarter),
        Trial(coarse_half, _plan(manifest, coarsest.mm), coarse_half),
        Trial(half, resampled, manifest.window_at(resampled.snapped)),
        Trial(_part(manifest, finest, 1), _plan(manifest, finest.mm, coarsest.mm), manifest.window_at(coarsest)),
    ]


def _part(manifest: Manifest, spacing: SnappedSpacing, parts: int) -> Extents:
    """The model's largest window with every extent divided, in whole multiples of what the network takes."""
    divisors = divisors_of(manifest.architecture.strides(spacing))
    r, a, s = (
        max(2 * divisor, round_up(extent // parts, divisor))
        for extent, divisor in zip(manifest.window_at(spacing), divisors, strict=True)
    )
    return r, a, s


def _plan(manifest: Manifest, native_mm: SpacingMm, working_mm: SpacingMm | None = None) -> SpacingPlan:
    return plan_spacing(native_mm, manifest.grid, OutsidePolicy.CLAMP, working_mm)


@dataclass(frozen=True)
class Calibration:
    """Of one worker."""

    device: torch.device
    precision: Precision
    kind: WorkerKind
    costs: CostStore
    blobs: BlobStore
    models: LoadedModels
    factory: WeightFactory
    computing: Computing

    def run(self) -> None:
        """Measure what was not measured yet, and give way to jobs.

        Raises:
            GaveWay: a job came; what was measured until then is kept.
            RedisError: nothing can be recorded now.
        """
        for version, digest in self.models.current().items():
            name = version.partition("@")[0]
            manifest = self.factory.checkpoint(name, digest).manifest
            for trial in self._missing(manifest, digest):
                with self.computing.measurement():
                    seen = self.measure(name, digest, trial, self.computing.give_way)
                if not trial.warm_up:
                    self.costs.add_calibration(self.kind, digest, seen)

    def measure_all(self, name: str, digest: str, check: Callable[[], None]) -> list[Observation]:
        """All trials once, for a job that cannot wait until the worker is idle; recorded as far as that can be.

        Args:
            check: called again and again; may raise to stop.
        """
        seen = []
        for trial in trials_for(self.factory.checkpoint(name, digest).manifest):
            seen.append(self.measure(name, digest, trial, check))
            with suppress(RedisError):
                self.costs.add_calibration(self.kind, digest, seen[-1])
        return seen

    def _missing(self, manifest: Manifest, digest: str) -> list[Trial]:
        """What is still to be measured, after one trial without resampling and one with it: they pay for what all the
        others share.
        """
        trials = trials_for(manifest)
        missing = (trials * ROUNDS)[self.costs.calibrations(self.kind, digest) :]
        return [trials[0]._replace(warm_up=True), trials[-1]._replace(warm_up=True), *missing] if missing else []

    def measure(self, name: str, digest: str, trial: Trial, check: Callable[[], None]) -> Observation:
        """What a job on the trial's scan takes, from its file to that of its label map."""
        manifest = self.factory.checkpoint(name, digest).manifest
        timings_s: dict[str, float] = {}
        with self.blobs.scratch() as folder:
            source = _scan_of_noise(folder / "input.nii.gz", trial)
            memory = PeakMemory(self.device)
            with _timed(timings_s, "load"):
                volume = read_volume(source)
            with _timed(timings_s, "weights"):
                unet, cached = self.factory.network(name, digest, trial.plan.snapped)
            execution = Execution(
                self.device, trial.window, unet.divisors, self.precision, overlap=manifest.window_overlap
            )
            with _timed(timings_s, "infer"):
                labels = segment_scan(
                    unet,
                    torch.from_numpy(volume.data),
                    trial.plan,
                    execution,
                    postprocessing=manifest.postprocessing,
                    on_window=lambda _done, _total: check(),
                ).numpy()
            with _timed(timings_s, "write"):
                write_labelmap(folder / "labelmap.nii.gz", labels, source, volume.header)
            peak_bytes = memory.peak()
        return_freed_memory()
        work = workload_of(manifest, trial.shape, trial.plan, window=trial.window)
        return observation(work, timings_s, cached=cached, peak_bytes=peak_bytes)


def _scan_of_noise(path: Path, trial: Trial) -> Path:
    voxels = np.random.default_rng(0).integers(0, 1000, trial.shape).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([*trial.plan.native_mm, 1.0])), path)
    return path


@contextmanager
def _timed(timings_s: dict[str, float], stage: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    timings_s[stage] = time.perf_counter() - started
