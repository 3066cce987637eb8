"""Which largest components to keep, decided on the validation split alone, as nnU-Net does (Isensee et al., Nature
Methods 18:203, 2021): first of the whole foreground, then of each label. A step is adopted if no label's Dice falls and
the mean rises, by no less than the table can show: each step costs something where a structure has several parts.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from unet_factory.domain.manifest import Label
from unet_factory.domain.postprocessing import AS_GIVEN, LabelGroup, Postprocessing
from unet_factory.domain.precision import Precision
from unet_factory.domain.spacing import SpacingMm
from unet_factory.model.checkpoint import Checkpoint, load_checkpoint, replace_manifest
from unet_factory.model.postprocessing import postprocess
from unet_factory_training.config import TrainingConfig
from unet_factory_training.contrast import at_drawn_contrast
from unet_factory_training.datasets import LabelledScan, read_split
from unet_factory_training.evaluation import DRAW_SEEDS, dice, draw_spacings, segment_simulated, simulate
from unet_factory_training.model_card import fill_marked

log = logging.getLogger(__name__)

CARD_MARK = "postprocessing"
DRAWS = 20
LEAST_RISE = 1e-4


@dataclass(frozen=True)
class Trial:
    """Mean ``dice`` per label where, after the steps adopted before, the largest component of ``group`` is kept.
    ``worst``: the largest loss of any scan at any spacing, in its mean over the labels; 0 where none loses.
    """

    group: LabelGroup
    dice: tuple[float, ...]
    worst: float
    adopted: bool


@dataclass(frozen=True)
class Decision:
    """``given``: mean Dice per label of the label maps as the network gives them; ``trials`` in their order."""

    given: tuple[float, ...]
    trials: tuple[Trial, ...]

    @property
    def postprocessing(self) -> Postprocessing:
        return Postprocessing(keep_largest=tuple(trial.group for trial in self.trials if trial.adopted))


@dataclass(frozen=True)
class Measured:
    """Dice (scans and spacings, labels), NaN where a label is absent from the reference: of label maps as ``given`` by
    the network, with the largest component of the ``foreground``, of each of the ``labels``, and of ``both`` in turn.
    """

    given: Tensor
    foreground: Tensor
    labels: Tensor
    both: Tensor


def choose_postprocessing(
    config: TrainingConfig, checkpoint_path: Path, target: Path, draws: int = DRAWS, card: Path | None = None
) -> Decision:
    """Decide on the validation scans, at their own spacings and at ``draws`` drawn ones, and write the checkpoint with
    the decision in its manifest to ``target``; its weights stay.

    ``card``: a model card to put the table into.

    Raises:
        CheckpointInvalid: it is no checkpoint.
        DatasetInvalid: as ``read_split``.
        ValueError: the card lacks the marks.
    """
    checkpoint = load_checkpoint(checkpoint_path)
    scans = read_split(config.dataset, "validation", config.architecture.classes)
    decision = decide(measure(checkpoint, config, scans, draws))
    manifest = checkpoint.manifest.model_copy(update={"postprocessing": decision.postprocessing})
    replace_manifest(checkpoint_path, manifest, target)
    if card is not None:
        fill_marked(card, CARD_MARK, rows_of(decision, manifest.labels))
    return decision


def measure(checkpoint: Checkpoint, config: TrainingConfig, scans: Sequence[LabelledScan], draws: int) -> Measured:
    """Every scan is segmented once at each spacing; no label map is kept."""
    spacings = [None, *draw_spacings(config.grid, draws, DRAW_SEEDS["validation"])]
    rows = []
    for number, spacing in enumerate(spacings, 1):
        for scan in scans:
            spacing_mm = scan.spacing_ras_mm if spacing is None else spacing.mm
            shown = at_drawn_contrast(scan, spacing_mm, config.contrast)
            rows.append(_score(checkpoint, shown, spacing_mm, config.optimisation.precision))
        log.info("spacing %d of %d", number, len(spacings))
    return Measured(*torch.tensor(rows, dtype=torch.float64).unbind(dim=1))


def decide(measured: Measured) -> Decision:
    """The choice, with all that was tried: the foreground, then every label on top of what was adopted before."""
    count = measured.given.shape[1]
    trials = [_trial(tuple(range(1, count + 1)), measured.given, measured.foreground)]
    adopted = trials[0].adopted
    before, each = (measured.foreground, measured.both) if adopted else (measured.given, measured.labels)
    for column in range(count if count > 1 else 0):
        after = before.clone()
        after[:, column] = each[:, column]
        trials.append(_trial((column + 1,), before, after))
        before = after if trials[-1].adopted else before
    return Decision(_means(measured.given), tuple(trials))


def rows_of(decision: Decision, labels: Sequence[Label]) -> list[list[str]]:
    """What was tried and what came of it, as a table's rows; the first is its heading."""
    names = [label.name for label in labels]
    heading = ["only the largest component of", *names[1:], "mean", "largest loss of a scan", "adopted"]
    return [
        heading,
        ["(as the network gives it)", *_rounded(decision.given), "", ""],
        *(
            [
                ", ".join(names[value] for value in trial.group),
                *_rounded(trial.dice),
                f"{trial.worst:.4f}",
                "yes" if trial.adopted else "no",
            ]
            for trial in decision.trials
        ),
    ]


def _score(
    checkpoint: Checkpoint, scan: LabelledScan, spacing_mm: SpacingMm, precision: Precision
) -> list[tuple[float, ...]]:
    """Dice per label, for each field of ``Measured`` in turn."""
    classes = checkpoint.manifest.architecture.classes
    simulated = simulate(scan, spacing_mm, classes)
    manifest = checkpoint.manifest.model_copy(update={"postprocessing": AS_GIVEN})
    found = segment_simulated(checkpoint, manifest, simulated, precision=precision)
    foreground = (tuple(range(1, classes)),)
    labels = tuple((value,) for value in range(1, classes))
    variants = ((), foreground, labels, foreground + labels)
    return [
        dice(postprocess(found.clone(), Postprocessing(keep_largest=groups)), simulated.labels, classes)
        for groups in variants
    ]


def _trial(group: LabelGroup, before: Tensor, after: Tensor) -> Trial:
    """From Dice (scans and spacings, labels) before and after it."""
    rise = after.nanmean(dim=0) - before.nanmean(dim=0)
    change = (after - before).nanmean(dim=1)
    worst = max(0.0, -float(change[~change.isnan()].min()))
    return Trial(group, _means(after), worst, adopted=bool((rise >= 0).all() and rise.mean() >= LEAST_RISE))


def _means(values: Tensor) -> tuple[float, ...]:
    return tuple(values.nanmean(dim=0).tolist())


def _rounded(dice: Sequence[float]) -> list[str]:
    return [f"{value:.4f}" for value in (*dice, sum(dice) / len(dice))]
