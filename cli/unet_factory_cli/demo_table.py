"""The demo's results as a table: one row per spacing, over all scans."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Self

from rich.table import Table

from unet_factory.domain.spacing import SpacingMm
from unet_factory_cli.demo_scans import Segmented


@dataclass(frozen=True)
class Row:
    """Means over the scans; the largest peak; ``ready`` of ``scans`` found their network in a cache."""

    spacing_mm: SpacingMm
    dice: tuple[float, ...]
    seconds: float
    peak_bytes: int
    ready: int
    scans: int

    @classmethod
    def of(cls, results: Sequence[Segmented]) -> Self:
        per_label = zip(*(result.dice for result in results), strict=True)
        return cls(
            spacing_mm=results[0].scan.spacing_mm,
            dice=tuple(fmean(values) for values in per_label),
            seconds=fmean(result.seconds for result in results),
            peak_bytes=max(result.job.peak_bytes or 0 for result in results),
            ready=sum(bool(result.job.weights_cached) for result in results),
            scans=len(results),
        )


def table_of(rows: Sequence[Row]) -> Table:
    """Dice is at the working resolution: against the expert's labels resampled to the same spacing."""
    table = Table(
        title=f"{rows[0].scans} scans that were never used in training, each segmented on its own grid",
        caption="Dice against the expert; seconds from upload to download; memory that a job added to its worker",
    )
    for heading in ("spacing (mm)", "anterior", "posterior", "seconds", "memory", "cache hits"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            spacing_text(row.spacing_mm),
            *(f"{value:.3f}" for value in row.dice),
            f"{row.seconds:.2f}",
            f"{row.peak_bytes / 2**20:.0f} MiB",
            f"{row.ready} of {row.scans}",
        )
    return table


def spacing_text(spacing_mm: SpacingMm) -> str:
    return " x ".join(f"{mm:g}" for mm in spacing_mm)
