"""What a checkpoint is worth: Dice per spacing on a split, as a table, JSON lines, and in the checkpoint's manifest."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from unet_factory.domain.dice_by_spacing import DiceBySpacing
from unet_factory.domain.manifest import Manifest
from unet_factory.domain.spacing import SnappedSpacing
from unet_factory.model.checkpoint import Checkpoint, load_checkpoint, replace_manifest
from unet_factory.platform.manifest_file import read_manifest
from unet_factory_training.config import TrainingConfig
from unet_factory_training.datasets import Split, find_subjects, read_split
from unet_factory_training.dice_fit import Measurements
from unet_factory_training.ensemble import Ensemble
from unet_factory_training.evaluation import DRAW_SEEDS, Score, draw_spacings, mean_dice, score_scans
from unet_factory_training.loop import manifest_of
from unet_factory_training.model_card import fill_marked

log = logging.getLogger(__name__)

CARD_MARK = "figures"


@dataclass(frozen=True)
class Region:
    """A named set of spacings that one figure is about; ``None`` in it stands for each scan's own."""

    name: str
    spacings: tuple[SnappedSpacing | None, ...]


@dataclass(frozen=True)
class Evaluation:
    """``figures``: one for each region; ``measured``: mean Dice of every scan at every spacing that all scans have."""

    figures: list[dict[str, Any]]
    measured: Measurements


def evaluate(
    paths: Sequence[Path],
    config: TrainingConfig,
    split: Split,
    draws: int,
    out: Path,
    *,
    mirroring: bool = False,
    even: bool = False,
) -> Evaluation:
    """Score a checkpoint on a split, used as configured and in the precision it was trained in; several are scored as
    one ensemble, used as the first of them says. ``even``: at working spacings that are even within the slice.

    One JSON line per scan and spacing goes to ``out``.

    Raises:
        CheckpointInvalid: one is none, or they were not made for the same task.
        MalformedRequest: ``mirroring`` is wanted of a checkpoint whose training has mirrored nothing.
    """
    checkpoints = [load_checkpoint(path) for path in paths]
    axes = checkpoints[0].manifest.axes_to_mirror(wanted=mirroring)
    checkpoint = replace(checkpoints[0], manifest=as_configured(checkpoints[0].manifest, config))
    networks = Ensemble(checkpoints, axes)
    scans = read_split(config.dataset, split, config.architecture.classes)
    figures, at_shared_spacings = [], []
    with out.open("w") as lines:
        for region in regions(config, split, draws):
            scores = score_scans(
                networks,
                checkpoint.manifest,
                scans,
                region.spacings,
                config.optimisation.precision,
                config.contrast,
                even=even,
            )
            lines.writelines(_json_line(region, score) for score in scores)
            figures.append(_figure(region, scores, checkpoint, split))
            at_shared_spacings += scores if None not in region.spacings else []
            log.info("%s: Dice %.4f", region.name, figures[-1]["dice_mean"])
    patients = {subject.name: subject.patient or subject.name for subject in find_subjects(config.dataset, split)}
    return Evaluation(figures, Measurements.of(at_shared_spacings, patients))


def publish(
    checkpoint_path: Path,
    figures: Sequence[dict[str, Any]],
    config: TrainingConfig,
    target: Path,
    dice_by_spacing: DiceBySpacing | None = None,
) -> str:
    """Write the checkpoint to ``target``, manifest from configuration and figures; its tensors stay as they are.
    Returns its digest.

    Without ``dice_by_spacing`` the checkpoint's own stays.
    """
    found = {"dice_by_spacing": dice_by_spacing} if dice_by_spacing else {}
    manifest = as_configured(read_manifest(checkpoint_path), config)
    changed = manifest.model_copy(update={"metrics": tuple(figures), **found})
    return replace_manifest(checkpoint_path, changed, target)


def as_configured(manifest: Manifest, config: TrainingConfig) -> Manifest:
    """The manifest that ``config`` gives, but for what only the checkpoint knows: the shape of its hypernetworks, how
    it was compressed, what training saw, what validation decided about windows and label maps, and what Dice to expect.
    """
    configured = manifest_of(config)
    made = {name: value for name, value in manifest.training.items() if name in ("compression", "mean_of")}
    names = ("hypernetwork", "members", "seen", "postprocessing", "window_overlap", "dice_by_spacing")
    kept = {name: getattr(manifest, name) for name in names}
    return configured.model_copy(update={**kept, "training": configured.training | made})


def fill_card(card: Path, figures: Sequence[dict[str, Any]]) -> None:
    """Replace what stands between the two marks of a model card by a table of the figures.

    Raises:
        ValueError: the card lacks the marks.
    """
    heading = ["spacing (R,A,S)", *figures[0]["dice"], "mean", "std"]
    fill_marked(card, CARD_MARK, [heading, *([figure["region"], *_rounded(figure)] for figure in figures)])


def regions(config: TrainingConfig, split: Split, draws: int) -> list[Region]:
    """Native, the configured spacings, and a Monte-Carlo draw over the trained range (paper, Table 2)."""
    drawn = draw_spacings(config.grid, draws, DRAW_SEEDS[split])
    reported = [config.grid.snap(mm) for mm in config.report_at_mm]
    return [
        Region("native", (None,)),
        *(Region(f"{spacing} mm", (spacing,)) for spacing in reported),
        Region(f"trained range, {draws} drawn spacings", tuple(drawn)),
    ]


def table_of(figures: Sequence[dict[str, Any]]) -> Table:
    """Rows of region, Dice per label, mean over labels and its standard deviation over scans and spacings."""
    table = Table("spacing (R,A,S)", *figures[0]["dice"], "mean", "std")
    for figure in figures:
        table.add_row(figure["region"], *_rounded(figure))
    return table


def _rounded(figure: dict[str, Any]) -> list[str]:
    return [f"{value:.3f}" for value in (*figure["dice"].values(), figure["dice_mean"], figure["dice_std"])]


def _figure(region: Region, scores: Sequence[Score], checkpoint: Checkpoint, split: Split) -> dict[str, Any]:
    values = torch.tensor([score.dice for score in scores])
    names = [label.name for label in checkpoint.manifest.labels[1:]]
    per_scan = values.nanmean(dim=1)
    per_scan = per_scan[~per_scan.isnan()]
    return {
        "region": region.name,
        "split": split,
        "spacings_mm": [spacing.mm for spacing in region.spacings if spacing] if len(region.spacings) == 1 else None,
        "scores": len(scores),
        "dice": dict(zip(names, [round(value, 4) for value in values.nanmean(dim=0).tolist()], strict=True)),
        "dice_mean": round(mean_dice(scores), 4),
        "dice_std": round(float(per_scan.std(correction=min(1, len(per_scan) - 1))), 4),
    }


def _json_line(region: Region, score: Score) -> str:
    record = {
        "region": region.name,
        "scan": score.scan,
        "spacing_mm": list(score.spacing_mm),
        "dice": [None if value != value else round(value, 4) for value in score.dice],
    }
    return json.dumps(record) + "\n"
