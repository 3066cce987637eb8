"""As which acquisitions each scan is simulated."""

from typing import NamedTuple
from zlib import crc32

import torch

from unet_factory.domain.spacing import SpacingGrid, SpacingMm
from unet_factory_research.comparison.config import NATIVE, Comparison, Segment, inversion_region
from unet_factory_training.config import TrainingConfig
from unet_factory_training.contrast import with_inversion_time
from unet_factory_training.datasets import LabelledScan
from unet_factory_training.evaluation import draw_spacings


class Acquisition(NamedTuple):
    """What is simulated. ``inversion_time_ms``: None for the scan's own contrast."""

    spacing_mm: SpacingMm
    inversion_time_ms: float | None = None

    def contrast_of(self, scan: LabelledScan) -> LabelledScan:
        return scan if self.inversion_time_ms is None else with_inversion_time(scan, self.inversion_time_ms)


def acquisitions_of(
    comparison: Comparison, scan: LabelledScan, number: int, config: TrainingConfig
) -> dict[Acquisition, list[str]]:
    """How a scan, ``number`` of its split from zero, is simulated, each with the regions that it counts for.

    Drawn spacings are multiples of the grid's step. Where contrasts are simulated, each spacing has one drawn for it.
    """
    acquisitions: dict[Acquisition, list[str]] = {}
    for spacing_mm, regions in _spacings_of(comparison, scan, number, config.grid_step_mm).items():
        drawn = None if config.contrast is None else config.contrast.drawn_for(f"{scan.name} {spacing_mm}")
        acquisitions[Acquisition(spacing_mm, drawn)] = regions
    for inversion_time_ms in comparison.inversion_times_ms:
        at = Acquisition(scan.spacing_ras_mm, inversion_time_ms)
        acquisitions.setdefault(at, []).append(inversion_region(inversion_time_ms))
    return acquisitions


def _spacings_of(comparison: Comparison, scan: LabelledScan, number: int, step_mm: float) -> dict[SpacingMm, list[str]]:
    regions: dict[str, list[SpacingMm]] = {NATIVE: [scan.spacing_ras_mm]}
    for name, interval in comparison.intervals.items():
        seed = crc32(f"{name} {scan.name}".encode())
        drawn = draw_spacings(SpacingGrid.from_mm(step_mm, interval), comparison.draws, seed)
        regions[name] = [spacing.mm for spacing in drawn]
    for segment in comparison.segments:
        if segment.scans is None or number < segment.scans:
            regions[segment.region] = spacings_along(segment, step_mm)
    spacings: dict[SpacingMm, list[str]] = {}
    for region, members in regions.items():
        for spacing in dict.fromkeys(members):
            spacings.setdefault(spacing, []).append(region)
    return spacings


def spacings_along(segment: Segment, step_mm: float) -> list[SpacingMm]:
    """The segment's spacings, snapped to ``step_mm``."""
    start, end = (torch.tensor(ends, dtype=torch.float64) for ends in (segment.from_mm, segment.to_mm))
    grid = SpacingGrid.from_mm(step_mm, [(step_mm, step_mm)] * 3)
    positions = torch.linspace(0, 1, segment.steps, dtype=torch.float64)
    return [grid.snap((start + position * (end - start)).tolist()).mm for position in positions]
