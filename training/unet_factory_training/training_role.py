"""Entry points of the training role: read a configuration, then train or evaluate."""

import logging
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from unet_factory.domain.plausibility import Seen
from unet_factory.platform.process_memory import keep_freed_memory
from unet_factory_training.config import read_config
from unet_factory_training.datasets import Split
from unet_factory_training.dice_fit import fit_dice
from unet_factory_training.dice_picture import fill_expected_dice
from unet_factory_training.engine import start_engine
from unet_factory_training.evaluation_report import evaluate, fill_card, publish
from unet_factory_training.faster_inference import Cost, choose_windows
from unet_factory_training.loop import train
from unet_factory_training.overrides import Overrides
from unet_factory_training.postprocessing import Decision, choose_postprocessing
from unet_factory_training.seen_scans import describe


def run(
    config_path: Path,
    run_dir: Path | None = None,
    device: str | None = None,
    overrides: Overrides = MappingProxyType({}),
) -> Path:
    """Train as configured, but for ``overrides``; logs and state go to ``run_dir``, by default ``runs/NAME``, or
    ``runs/NAME-foldK`` where part K of the patients is left out.

    ``torchrun --nproc-per-node N -m unet_factory_cli train CONFIG`` trains on N devices. Returns the checkpoint's path.
    """
    config = read_config(config_path, overrides)
    fold = config.dataset.fold
    run_dir = run_dir or Path("runs") / (config.name if fold is None else f"{config.name}-fold{fold.number}")
    run_dir.mkdir(parents=True, exist_ok=True)
    keep_freed_memory()
    if config.threads:
        torch.set_num_threads(config.threads)
    fabric = start_engine(config, device)
    _log_to(run_dir / "train.log", leads=fabric.is_global_zero)
    return train(config, run_dir, fabric)


def _log_to(path: Path, *, leads: bool) -> None:
    """The first process tells what happens, the others only what goes wrong."""
    handlers: list[logging.Handler] = [logging.FileHandler(path), logging.StreamHandler()]
    level = logging.INFO if leads else logging.WARNING
    logging.basicConfig(level=level, format="%(asctime)s %(message)s", handlers=handlers, force=True)


def run_evaluation(
    config_path: Path,
    checkpoints: Sequence[Path],
    split: Split = "validation",
    draws: int = 100,
    publish_to: Path | None = None,
    card: Path | None = None,
    overrides: Overrides = MappingProxyType({}),
    *,
    mirroring: bool = False,
    even: bool = False,
) -> list[dict[str, Any]]:
    """Score a checkpoint, or several as one ensemble, on a split, as configured but for ``overrides``. Scores go to
    ``CHECKPOINT.SPLIT.jsonl`` beside the first one, ``ensemble``, ``mirrored`` and ``even`` in its name where they
    apply.

    With ``publish_to`` a copy of the checkpoint with the figures in its manifest is written there, with ``card`` they
    are put into a model card. The validation split, with enough draws, also gives the Dice to expect at any spacing.
    Returns the figures.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    config = read_config(config_path, overrides)
    keep_freed_memory()
    if config.threads:
        torch.set_num_threads(config.threads)
    how = "".join([".ensemble" * (len(checkpoints) > 1), ".mirrored" * mirroring, ".even" * even])
    scores = checkpoints[0].with_suffix(f".{split}{how}.jsonl")
    found = evaluate(checkpoints, config, split, draws, scores, mirroring=mirroring, even=even)
    expected = fit_dice(found.measured) if split == "validation" else None
    if publish_to is not None:
        publish(checkpoints[0], found.figures, config, publish_to, expected)
    if card is not None:
        fill_card(card, found.figures)
    if card is not None and expected is not None:
        fill_expected_dice(card, found.measured, expected, config.report_at_mm)
    return found.figures


def run_description(
    config_path: Path,
    checkpoint: Path,
    target: Path,
    margin: float,
    card: Path | None = None,
    overrides: Overrides = MappingProxyType({}),
) -> Seen:
    """Write ``checkpoint`` to ``target`` with what its training and validation scans are like in its manifest."""
    return describe(read_config(config_path, overrides), checkpoint, target, margin, card)


def run_choice_of_windows(
    config_path: Path,
    checkpoint: Path,
    target: Path,
    card: Path | None = None,
    overrides: Overrides = MappingProxyType({}),
) -> tuple[list[Cost], float]:
    """Write ``checkpoint`` to ``target`` with the least overlap of windows that validation allows in its manifest."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    keep_freed_memory()
    config = read_config(config_path, overrides)
    if config.threads:
        torch.set_num_threads(config.threads)
    return choose_windows(config, checkpoint, target, card)


def run_choice_of_postprocessing(
    config_path: Path,
    checkpoint: Path,
    target: Path,
    draws: int,
    card: Path | None = None,
    overrides: Overrides = MappingProxyType({}),
) -> Decision:
    """Write ``checkpoint`` to ``target`` with the postprocessing in its manifest that helps on the validation split."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    config = read_config(config_path, overrides)
    if config.threads:
        torch.set_num_threads(config.threads)
    return choose_postprocessing(config, checkpoint, target, draws, card)
