"""What a checkpoint is worth: Dice per spacing on a split, as a table, JSON lines, and in the checkpoint's manifest."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from unet_factory.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from unet_factory.spacing import SnappedSpacing
from unet_factory_training.config import TrainingConfig
from unet_factory_training.datasets import Scan, Split, find_subjects, read_scan
from unet_factory_training.evaluation import Score, draw_spacings, mean_dice, score_scans
from unet_factory_training.loop import manifest_of

log = logging.getLogger(__name__)

DRAW_SEED = 20240
_ISOTROPIC_MM = (0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5)
_ANISOTROPIC_MM = ((1.0, 1.0, 3.0), (0.5, 0.5, 3.0), (3.0, 1.0, 1.0))


@dataclass(frozen=True)
class Region:
    """A named set of spacings that one figure is about."""

    name: str
    spacings: tuple[SnappedSpacing, ...]


def evaluate(
    checkpoint_path: Path, config: TrainingConfig, split: Split, draws: int, out: Path
) -> list[dict[str, Any]]:
    """Score a checkpoint on a split, used as configured; one JSON line per scan and spacing goes to ``out``.

    Returns the figures.
    """
    checkpoint = replace(load_checkpoint(checkpoint_path), manifest=manifest_of(config))
    scans = [read_scan(subject, config.dataset) for subject in find_subjects(config.dataset, split)]
    figures = []
    with out.open("w") as lines:
        for region in regions(checkpoint, scans, draws):
            scores = score_scans(checkpoint.hypernetwork, checkpoint.manifest, scans, region.spacings)
            lines.writelines(_json_line(region, score) for score in scores)
            figures.append(_figure(region, scores, checkpoint, split))
            log.info("%s: Dice %.4f", region.name, figures[-1]["dice_mean"])
    return figures


def publish(checkpoint_path: Path, figures: Sequence[dict[str, Any]], config: TrainingConfig, target: Path) -> str:
    """Write the checkpoint to ``target``, manifest from configuration and figures. Returns its digest."""
    checkpoint = load_checkpoint(checkpoint_path)
    manifest = manifest_of(config).model_copy(update={"metrics": tuple(figures)})
    return save_checkpoint(target, checkpoint.hypernetwork, manifest, heads=config.heads_dtype)


def regions(checkpoint: Checkpoint, scans: Sequence[Scan], draws: int) -> list[Region]:
    """Native, isotropic steps, anisotropic ones, and a Monte-Carlo draw over the trained range (paper, Table 2)."""
    grid = checkpoint.manifest.grid
    fixed = [(value, value, value) for value in _ISOTROPIC_MM] + list(_ANISOTROPIC_MM)
    inside = [spacing for spacing in map(grid.snap, fixed) if grid.contains(spacing)]
    native = grid.clamp(grid.snap(scans[0].spacing_ras_mm))
    return [
        Region(f"native {native} mm", (native,)),
        *(Region(f"{spacing} mm", (spacing,)) for spacing in inside if spacing != native),
        Region(f"trained range, {draws} drawn spacings", tuple(draw_spacings(grid, draws, DRAW_SEED))),
    ]


def table_of(figures: Sequence[dict[str, Any]]) -> Table:
    """Rows of region, Dice per label, mean over labels and its standard deviation over scans and spacings."""
    table = Table("spacing (R,A,S)", *figures[0]["dice"], "mean", "std")
    for figure in figures:
        per_label = [f"{value:.3f}" for value in figure["dice"].values()]
        table.add_row(figure["region"], *per_label, f"{figure['dice_mean']:.3f}", f"{figure['dice_std']:.3f}")
    return table


def _figure(region: Region, scores: Sequence[Score], checkpoint: Checkpoint, split: Split) -> dict[str, Any]:
    values = torch.tensor([score.dice for score in scores])
    names = [label.name for label in checkpoint.manifest.labels[1:]]
    per_scan = values.nanmean(dim=1)
    return {
        "region": region.name,
        "split": split,
        "spacings_mm": [list(spacing.mm) for spacing in region.spacings] if len(region.spacings) == 1 else None,
        "scores": len(scores),
        "dice": dict(zip(names, [round(value, 4) for value in values.nanmean(dim=0).tolist()], strict=True)),
        "dice_mean": round(mean_dice(scores), 4),
        "dice_std": round(float(per_scan[~per_scan.isnan()].std()), 4),
    }


def _json_line(region: Region, score: Score) -> str:
    record = {
        "region": region.name,
        "scan": score.scan,
        "spacing_mm": list(score.spacing.mm),
        "dice": [None if value != value else round(value, 4) for value in score.dice],
    }
    return json.dumps(record) + "\n"
