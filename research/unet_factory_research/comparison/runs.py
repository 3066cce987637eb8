"""The training runs of a comparison: one per trained arm and seed, skipped where finished, resumed where not."""

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import yaml

from unet_factory.domain.errors import CheckpointInvalid
from unet_factory_research.comparison.config import Comparison, slug
from unet_factory_training.config import TrainingConfig, read_config
from unet_factory_training.training_role import run
from unet_factory_training.validation_record import VALIDATION_COLUMNS, VALIDATION_FILE

log = logging.getLogger(__name__)

_OF_THE_MACHINE = {"threads", "loader_workers", "save_every"}


@dataclass(frozen=True)
class Run:
    """One training of one arm; ``folder`` holds its state, log and checkpoint."""

    arm: str
    seed: int
    config: TrainingConfig
    folder: Path

    @property
    def checkpoint(self) -> Path:
        return self.folder / f"{self.config.name}.safetensors"


def runs_of(comparison: Comparison, folder: Path) -> list[Run]:
    """Every training that the comparison asks for."""
    return [
        Run(arm, seed, comparison.training_config(arm, seed), folder / "runs" / f"{slug(arm)}-seed{seed}")
        for seed in comparison.seeds
        for arm in comparison.trained_arms()
    ]


def train_runs(runs: Collection[Run], given: Mapping[str, Path], device: str | None) -> None:
    """Train what is not finished, one after the other; arms whose checkpoint is given are not trained.

    Raises:
        CheckpointInvalid: a folder holds a run of another configuration.
    """
    for training in runs:
        if training.arm in given:
            continue
        _claim(training)
        if training.checkpoint.exists():
            log.info("%s, seed %d: already trained", training.arm, training.seed)
            continue
        log.info("%s, seed %d: training into %s", training.arm, training.seed, training.folder)
        run(training.folder / "config.yaml", training.folder, device)


def learning_curves(runs: Collection[Run]) -> pd.DataFrame:
    """Validation Dice while training, with what it had cost; columns arm, seed and those of the run's own table.

    A resumed run's last word counts.
    """
    parts = []
    for training in runs:
        path = training.folder / VALIDATION_FILE
        if path.exists():
            curve = pd.read_csv(path).drop_duplicates(["iteration", "set"], keep="last")
            parts.append(curve.assign(arm=training.arm, seed=training.seed))
    columns = ["arm", "seed", *VALIDATION_COLUMNS]
    return pd.concat(parts)[columns] if parts else pd.DataFrame(columns=columns)


def _claim(training: Run) -> None:
    """The folder belongs to this configuration from now on, if to none before."""
    path = training.folder / "config.yaml"
    if not path.exists():
        training.folder.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(training.config.model_dump(mode="json"), sort_keys=False))
    elif _method(read_config(path)) != _method(training.config):
        raise CheckpointInvalid(
            f"{training.folder} holds a run of another configuration of {training.arm}; choose another output folder, "
            "or remove it"
        )


def _method(config: TrainingConfig) -> dict[str, object]:
    return config.model_dump(exclude=_OF_THE_MACHINE)
