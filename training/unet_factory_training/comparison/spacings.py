"""Which spacings each scan is simulated at."""

from zlib import crc32

import torch

from unet_factory.spacing import SpacingGrid, SpacingMm
from unet_factory_training.comparison.config import NATIVE, Comparison, Segment
from unet_factory_training.datasets import Scan
from unet_factory_training.evaluation import draw_spacings


def spacings_of(comparison: Comparison, scan: Scan, number: int, step_mm: float) -> dict[SpacingMm, list[str]]:
    """The spacings for a scan, ``number`` of its split from zero, each with the regions that it counts for; drawn ones
    are multiples of ``step_mm``.
    """
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
