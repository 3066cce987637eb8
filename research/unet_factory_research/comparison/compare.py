"""The whole comparison: train what is not trained, score what is not scored, measure, and write down what came out."""

import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Literal, get_args

import torch

from unet_factory_research.comparison.config import Comparison
from unet_factory_research.comparison.cost import measure_cost
from unet_factory_research.comparison.publishing import COST_FILE, SCORES_FILE, publish_report, write_report
from unet_factory_research.comparison.runs import learning_curves, runs_of, train_runs
from unet_factory_research.comparison.scoring import Contender, contenders_of, score_all

Stage = Literal["train", "evaluate", "cost", "report"]
STAGES: tuple[Stage, ...] = get_args(Stage)


def compare(
    comparison: Comparison,
    output: Path,
    *,
    checkpoints: Mapping[str, Path] = MappingProxyType({}),
    only: Stage | None = None,
    arms: Collection[str] = (),
    publish: Path | None = None,
    device: str | None = None,
) -> None:
    """Do every stage or ``only`` one, and train and score all arms or just ``arms``.

    What is in ``output`` already is not done again (cost is, where it is the only stage), so several processes may
    train and score different arms into one.

    Raises:
        FactoryError: data, checkpoints or earlier runs in ``output`` do not fit.
    """
    stages = STAGES if only is None else (only,)
    output.mkdir(parents=True, exist_ok=True)
    runs = runs_of(comparison, output)
    if "train" in stages:
        train_runs([run for run in runs if not arms or run.arm in arms], checkpoints, device)
    _log_to(output / "compare.log")
    torch.set_num_threads(runs[0].config.threads or torch.get_num_threads())
    if "evaluate" in stages or "cost" in stages:
        chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        contenders = contenders_of(comparison, runs, checkpoints, chosen)
        if "evaluate" in stages:
            table = score_all(comparison, contenders, output / "scores", wanted=arms)
            if len(table):
                table.to_csv(output / SCORES_FILE, index=False, float_format="%.6g")
        if only == "cost" or ("cost" in stages and not (output / COST_FILE).exists()):
            _measure_cost(comparison, contenders, output / COST_FILE)
    if "report" in stages and (output / SCORES_FILE).exists():
        write_report(comparison, output, learning_curves(runs))
        if publish is not None:
            publish_report(comparison, output, publish)


def _measure_cost(comparison: Comparison, contenders: Sequence[Contender], path: Path) -> None:
    config, seed = comparison.cost, comparison.seeds[0]
    if config is None:
        return
    measured = [contender for contender in contenders if contender.arm in config.arms and contender.seed == seed]
    if {contender.arm for contender in measured} == set(config.arms):
        measure_cost(config, measured, comparison.grid_step_mm).to_csv(path, index=False, float_format="%.6g")


def _log_to(path: Path) -> None:
    handlers: list[logging.Handler] = [logging.FileHandler(path), logging.StreamHandler()]
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", handlers=handlers, force=True)
