"""The whole comparison: train what is not trained, score what is not scored, and write down what came out."""

import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Literal, get_args

import torch

from unet_factory_training.comparison.config import Comparison
from unet_factory_training.comparison.runs import runs_of, train_runs
from unet_factory_training.comparison.scoring import contenders_of, score_all

Stage = Literal["train", "evaluate", "report"]
STAGES: tuple[Stage, ...] = get_args(Stage)


def compare(
    comparison: Comparison,
    output: Path,
    *,
    checkpoints: Mapping[str, Path] = MappingProxyType({}),
    stages: Collection[Stage] = STAGES,
    arms: Collection[str] = (),
    publish: Path | None = None,
    device: str | None = None,
) -> None:
    """Do the stages for all arms, or train and score ``arms`` alone. What is in ``output`` already is not done again,
    so several processes may work for the same one.

    Raises:
        FactoryError: data, checkpoints or earlier runs in ``output`` do not fit.
    """
    output.mkdir(parents=True, exist_ok=True)
    chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    runs = runs_of(comparison, output)
    if "train" in stages:
        train_runs([run for run in runs if not arms or run.arm in arms], checkpoints, device)
    _log_to(output / "compare.log")
    torch.set_num_threads(runs[0].config.threads or torch.get_num_threads())
    if "evaluate" in stages:
        contenders = contenders_of(comparison, runs, checkpoints, chosen)
        table = score_all(comparison, contenders, output / "scores", wanted=arms)
        table.to_csv(output / SCORES_FILE, index=False, float_format="%.6g")


SCORES_FILE = "scores.csv"


def _log_to(path: Path) -> None:
    handlers: list[logging.Handler] = [logging.FileHandler(path), logging.StreamHandler()]
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", handlers=handlers, force=True)
