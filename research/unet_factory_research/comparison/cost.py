"""Time and peak memory of one segmentation, hypernetwork pass included, against the spacing of the scan."""

import math
import multiprocessing
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pandas as pd
import torch

from unet_factory.domain.manifest import Manifest
from unet_factory.domain.spacing import OutsidePolicy, SpacingMm
from unet_factory.model.checkpoint import Checkpoint, load_checkpoint
from unet_factory.platform.process_memory import peak_bytes, reset_peak_bytes
from unet_factory_research.comparison.acquisitions import spacings_along
from unet_factory_research.comparison.config import CostConfig
from unet_factory_research.comparison.scoring import SPACING_COLUMNS, Contender
from unet_factory_training.evaluation import Simulated, segment_simulated


@dataclass(frozen=True)
class Case:
    """One arm at one spacing; all that another process needs to repeat it."""

    arm: str
    path: Path
    manifest: Manifest
    outside: OutsidePolicy
    working_mm: SpacingMm | None
    spacing_mm: SpacingMm
    shape: tuple[int, int, int]
    threads: int
    device: str


def measure_cost(config: CostConfig, contenders: Sequence[Contender], step_mm: float) -> pd.DataFrame:
    """A row for each contender and spacing, on a scan whose content does not matter: along the configured segment, and
    at the two spacings that are compared.

    ``seconds`` and ``cpu_seconds`` are medians of interleaved repeats after one that does not count, so whatever else
    the machine does befalls all arms alike. ``peak_bytes`` is what the segmentation adds to a fresh process that has
    loaded the checkpoint (``checkpoint_bytes``); on a GPU what it allocates there.
    """
    spacings = dict.fromkeys([*spacings_along(config.along, step_mm), config.at_mm, config.against_mm])
    cases = [_case(contender, spacing_mm, config.extent_mm) for spacing_mm in spacings for contender in contenders]
    times = _measure_times(cases, config.repeats)
    with ProcessPoolExecutor(1, _context(), max_tasks_per_child=1) as fresh_processes:
        peaks = list(fresh_processes.map(measure_peak, cases))
    rows = [
        {
            "arm": case.arm,
            **dict(zip(SPACING_COLUMNS, case.spacing_mm, strict=True)),
            "voxels": math.prod(case.shape),
            "seconds": statistics.median(wall for wall, _ in timed),
            "cpu_seconds": statistics.median(cpu for _, cpu in timed),
            "peak_bytes": peak,
            "checkpoint_bytes": case.path.stat().st_size,
            "device": case.device,
            "threads": case.threads,
            "repeats": config.repeats,
        }
        for case, timed, peak in zip(cases, times, peaks, strict=True)
    ]
    return pd.DataFrame(rows)


def measure_peak(case: Case) -> int:
    """Bytes that segmenting adds to this process, which should be fresh; a small scan first, so that libraries are
    there.
    """
    torch.set_num_threads(case.threads)
    checkpoint = _checkpoint_of(case)
    _segment(replace(case, shape=_SMALL), checkpoint)
    if case.device != "cpu":
        torch.cuda.reset_peak_memory_stats(case.device)
        before = torch.cuda.memory_allocated(case.device)
        _segment(case, checkpoint)
        return torch.cuda.max_memory_allocated(case.device) - before
    before = reset_peak_bytes()
    _segment(case, checkpoint)
    return max(0, peak_bytes() - before)


_SMALL = (16, 16, 16)


def _context() -> ForkServerContext:
    """Processes that have done nothing but import; the imports, which take seconds, are shared."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def _case(contender: Contender, spacing_mm: SpacingMm, extent_mm: SpacingMm) -> Case:
    r, a, s = (max(1, round(extent / mm)) for extent, mm in zip(extent_mm, spacing_mm, strict=True))
    checkpoint = contender.checkpoint
    device = str(checkpoint.hypernetwork.bias.device)
    return Case(
        contender.arm,
        contender.path,
        checkpoint.manifest,
        contender.outside,
        contender.working_mm,
        spacing_mm,
        (r, a, s),
        torch.get_num_threads(),
        device,
    )


def _measure_times(cases: Sequence[Case], repeats: int) -> list[list[tuple[float, float]]]:
    """(wall, CPU) seconds of every repeat of every case."""
    checkpoints = {case.arm: _checkpoint_of(case) for case in cases}
    times: list[list[tuple[float, float]]] = [[] for _ in cases]
    for repeat in range(repeats + 1):
        for case, timed in zip(cases, times, strict=True):
            wall, cpu = time.perf_counter(), time.process_time()
            _segment(case, checkpoints[case.arm])
            if repeat:
                timed.append((time.perf_counter() - wall, time.process_time() - cpu))
    return times


def _checkpoint_of(case: Case) -> Checkpoint:
    return replace(load_checkpoint(case.path, case.device), manifest=case.manifest)


def _segment(case: Case, checkpoint: Checkpoint) -> None:
    image = torch.randn(case.shape, generator=torch.Generator().manual_seed(0))
    scan = Simulated(image, torch.zeros(case.shape, dtype=torch.uint8), case.spacing_mm)
    segment_simulated(checkpoint.hypernetwork, checkpoint.manifest, scan, case.outside, working_mm=case.working_mm)
