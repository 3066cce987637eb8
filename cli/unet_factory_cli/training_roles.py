"""Training, scoring and comparing from the command line: the files that were named are checked, figures are told."""

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from pydantic import ValidationError

from unet_factory_cli.failures import MISUSED, CommandFailed

if TYPE_CHECKING:
    from rich.table import Table

    from unet_factory_research.comparison.compare import Stage
    from unet_factory_training.datasets import Split
    from unet_factory_training.overrides import Overrides


def run_training(config: Path, run_dir: Path | None, device: str | None, changes: list[str]) -> None:
    """
    Raises:
        CommandFailed: the file cannot be read, or, with the changes, is no configuration.
    """
    overrides = _check_training_config(config, changes)
    from unet_factory_training.training_role import run

    run(config, run_dir, device, overrides)


def run_comparison(
    config: Path,
    output: Path,
    checkpoints: list[str],
    only: "Stage | None",
    arms: list[str],
    publish: Path | None,
    device: str | None,
) -> None:
    """
    Raises:
        CommandFailed: the file cannot be read, is no comparison, or has no such arms.
    """
    given = {arm: Path(file) for arm, _, file in (text.partition("=") for text in checkpoints)}
    if missing := [str(path) for path in [config, *given.values()] if not path.is_file()]:
        raise CommandFailed(f"there is no file {', '.join(missing)}", MISUSED)
    from unet_factory_research.comparison.compare import compare
    from unet_factory_research.comparison.config import read_comparison

    with _faults_of(config, "comparison"):
        comparison = read_comparison(config)
        comparison.check_arms({*given, *arms})
    compare(comparison, output, checkpoints=given, only=only, arms=arms, publish=publish, device=device)


def run_evaluation(
    config: Path,
    checkpoints: list[Path],
    split: "Split",
    draws: int,
    publish: Path | None,
    card: Path | None,
    changes: list[str],
    *,
    mirroring: bool,
    even: bool,
    as_json: bool,
) -> None:
    """
    Raises:
        CommandFailed: a file cannot be read, or, with the changes, is no configuration; or figures of an ensemble, with
            mirroring or at even spacings are to be published as those of a checkpoint.
    """
    overrides = _check_training_config(config, changes)
    if (mirroring or even or len(checkpoints) > 1) and (publish or card):
        raise CommandFailed("--publish and --card take one checkpoint, without --mirroring or --even", MISUSED)
    for file in (*checkpoints, card):
        if file is not None and not file.is_file():
            raise CommandFailed(f"there is no file {file}", MISUSED)
    from unet_factory_training.evaluation_report import table_of
    from unet_factory_training.training_role import run_evaluation as run

    found = run(config, checkpoints, split, draws, publish, card, overrides, mirroring=mirroring, even=even)
    _tell(found, table_of(found), as_json=as_json)


def run_description(
    config: Path,
    checkpoint: Path,
    target: Path,
    margin: float | None,
    card: Path | None,
    changes: list[str],
    *,
    as_json: bool,
) -> None:
    """
    Raises:
        CommandFailed: a file cannot be read, or, with the changes, is no configuration.
    """
    overrides = _check_all(config, changes, checkpoint, card, target)
    from unet_factory_training.seen_scans import MARGIN, rows_of
    from unet_factory_training.training_role import run_description as run

    seen = run(config, checkpoint, target, margin or MARGIN, card, overrides)
    _tell(seen, _table(rows_of(seen)), as_json=as_json)


def run_choice_of_postprocessing(
    config: Path,
    checkpoint: Path,
    target: Path,
    draws: int,
    card: Path | None,
    changes: list[str],
    *,
    as_json: bool,
) -> None:
    """
    Raises:
        CommandFailed: a file cannot be read, or, with the changes, is no configuration.
    """
    overrides = _check_all(config, changes, checkpoint, card, target)
    from unet_factory.platform.manifest_file import read_manifest
    from unet_factory_training.postprocessing import rows_of
    from unet_factory_training.training_role import run_choice_of_postprocessing as run

    labels = read_manifest(checkpoint).labels
    decision = run(config, checkpoint, target, draws, card, overrides)
    _tell(decision, _table(rows_of(decision, labels)), as_json=as_json)


def run_choice_of_windows(
    config: Path, checkpoint: Path, target: Path, card: Path | None, changes: list[str], *, as_json: bool
) -> None:
    """
    Raises:
        CommandFailed: a file cannot be read, or, with the changes, is no configuration.
    """
    overrides = _check_all(config, changes, checkpoint, card, target)
    from unet_factory.platform.manifest_file import read_manifest
    from unet_factory_training.faster_inference import rows_of
    from unet_factory_training.training_role import run_choice_of_windows as run

    labels = read_manifest(checkpoint).labels
    costs, overlap = run(config, checkpoint, target, card, overrides)
    told = {"window_overlap": overlap, "ways": [asdict(cost) | {"way": cost.way._asdict()} for cost in costs]}
    _tell(told, _table(rows_of(costs, overlap, labels)), as_json=as_json)


def run_compression(
    checkpoint: Path,
    tolerance: float,
    output: Path | None,
    scan: Path | None,
    at_most_mb: float | None,
    *,
    as_json: bool,
) -> None:
    """
    Raises:
        CommandFailed: a file is not there, or the tolerance is none.
        ToleranceMissed: nothing smaller stays within the tolerance, or no checkpoint is so small.
    """
    for path in (checkpoint, scan):
        if path is not None and not path.is_file():
            raise CommandFailed(f"there is no file {path}", MISUSED)
    if not tolerance > 0:
        raise CommandFailed(f"--tolerance is {tolerance:g}; it must be above 0", MISUSED)
    target = output or checkpoint.with_suffix(".compressed.safetensors")
    if not target.parent.is_dir():
        raise CommandFailed(f"there is no folder {target.parent}", MISUSED)
    if target.resolve() == checkpoint.resolve():
        raise CommandFailed(f"{target} is the checkpoint itself; choose another output file", MISUSED)
    from unet_factory_training.compression import compress_file, table_of
    from unet_factory_training.logit_change import Probe

    probe = Probe.noise() if scan is None else Probe.of_scan(scan)
    most_bytes = None if at_most_mb is None else int(at_most_mb * 1e6)
    compressed = compress_file(checkpoint, target, tolerance, probe, most_bytes)
    told = {
        "output": str(target),
        "bytes": target.stat().st_size,
        "heads": compressed.hypernetwork.shape.basis,
        "heads_dtype": str(compressed.heads_dtype),
        "bias_dtype": str(compressed.bias_dtype),
        "change": compressed.change,
    }
    _tell(told, table_of(compressed, checkpoint, target), as_json=as_json)


def run_ensemble(checkpoints: list[Path], target: Path, name: str | None, *, as_json: bool) -> None:
    """
    Raises:
        CommandFailed: a file or folder is not there, the target is one of the checkpoints, or the name is not allowed.
        CheckpointInvalid: the checkpoints cannot be one ensemble.
    """
    _check_several(checkpoints, target)
    from unet_factory_training.ensemble import write_ensemble

    try:
        digest = write_ensemble(checkpoints, target, name)
    except ValidationError as error:
        raise CommandFailed(f"--name is {name!r}: {_first_fault(error)}", MISUSED) from error
    told = {"output": str(target), "digest": digest, "bytes": target.stat().st_size, "members": len(checkpoints)}
    _tell(told, _table([["", ""], *([name, str(value)] for name, value in told.items())]), as_json=as_json)


def run_average(checkpoints: list[Path], target: Path, *, as_json: bool) -> None:
    """
    Raises:
        CommandFailed: a file or folder is not there, or the target is one of the checkpoints.
        CheckpointInvalid: the checkpoints have no mean.
    """
    _check_several(checkpoints, target)
    from unet_factory_training.averaging import write_mean

    told = {"output": str(target), "digest": write_mean(checkpoints, target), "bytes": target.stat().st_size}
    _tell(told, _table([["", ""], *([name, str(value)] for name, value in told.items())]), as_json=as_json)


def run_cka(
    checkpoints: list[Path],
    config: Path,
    output: Path,
    finest: str,
    coarsest: str,
    options: dict[str, Any],
    publish: Path | None,
    device: str | None,
) -> None:
    """
    Raises:
        CommandFailed: a file cannot be read.
        FactoryError: a spacing is none, or the networks cannot be compared.
    """
    _check_training_config(config)
    if missing := [str(path) for path in checkpoints if not path.is_file()]:
        raise CommandFailed(f"there is no file {', '.join(missing)}", MISUSED)
    from unet_factory.domain.spacing import parse_spacing
    from unet_factory_research.cka.options import CkaOptions
    from unet_factory_research.cka.run_cka import run_cka as run

    ends = {"finest_mm": parse_spacing(finest), "coarsest_mm": parse_spacing(coarsest)}
    command = shlex.join(["unet-factory", *sys.argv[1:]])
    run(checkpoints, config, CkaOptions(**ends, **options), output, device, publish, command)


def _check_all(config: Path, changes: list[str], checkpoint: Path, card: Path | None, target: Path) -> "Overrides":
    overrides = _check_training_config(config, changes)
    _check_files(checkpoint, card, target)
    return overrides


def _check_several(checkpoints: list[Path], target: Path) -> None:
    for checkpoint in checkpoints:
        _check_files(checkpoint, None, target)
        if target.resolve() == checkpoint.resolve():
            raise CommandFailed(f"{target} is one of the checkpoints; choose another output file", MISUSED)


def _check_files(checkpoint: Path, card: Path | None, target: Path) -> None:
    for file in (checkpoint, card):
        if file is not None and not file.is_file():
            raise CommandFailed(f"there is no file {file}", MISUSED)
    if not target.parent.is_dir():
        raise CommandFailed(f"there is no folder {target.parent}", MISUSED)


def _table(rows: list[list[str]]) -> "Table":
    from rich.table import Table

    heading, *others = rows
    table = Table(*heading)
    for row in others:
        table.add_row(*row)
    return table


def _tell(value: object, table: "Table", *, as_json: bool) -> None:
    from pydantic_core import to_json
    from rich.console import Console

    if as_json:
        typer.echo(to_json(value, indent=2))
    else:
        Console().print(table)


def _check_training_config(config: Path, changes: list[str] | None = None) -> "Overrides":
    if not config.is_file():
        raise CommandFailed(f"there is no file {config}", MISUSED)
    from unet_factory_training.config import read_config
    from unet_factory_training.overrides import parse_overrides

    with _faults_of(config, "training configuration"):
        overrides = parse_overrides(changes or [])
        read_config(config, overrides)
    return overrides


@contextmanager
def _faults_of(config: Path, kind: str) -> Iterator[None]:
    import yaml

    try:
        yield
    except (ValueError, OSError, yaml.YAMLError) as error:  # pydantic's ValidationError is a ValueError
        raise CommandFailed(f"{config} is not a valid {kind}: {_first_fault(error)}", MISUSED) from error


def _first_fault(error: Exception) -> str:
    if isinstance(error, ValidationError):
        fault = error.errors(include_url=False)[0]
        return f"{'.'.join(map(str, fault['loc']))}: {fault['msg']} (it is {fault['input']!r})"
    return " ".join(str(error).split())
