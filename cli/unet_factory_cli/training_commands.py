"""The commands that train, score, compare and compress checkpoints."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from unet_factory_cli.failures import clear_errors
from unet_factory_cli.options import AsJson, Device

app = typer.Typer()

Changes = Annotated[list[str] | None, typer.Option("--set", help="NAME=VALUE; repeat for more.")]
Stage = Literal["train", "evaluate", "cost", "report"]


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="A YAML file, such as configs/hippocampus-mr.yaml.")],
    run_dir: Annotated[
        Path | None, typer.Option(help="Logs and state; default: runs/NAME, or runs/NAME-foldK.")
    ] = None,
    fold: Annotated[
        int | None,
        typer.Option(help="Leave out this fifth, 0 to 4, of the training and validation patients, to validate on."),
    ] = None,
    device: Device = None,
    changes: Changes = None,
) -> None:
    """Train a hypernetwork, resuming where an earlier run of the same configuration was interrupted."""
    with clear_errors("training"):
        from unet_factory_cli.training_roles import run_training

        folds = [] if fold is None else [f"dataset.fold={{number: {fold}, of: 5}}"]
        run_training(config, run_dir, device, [*(changes or []), *folds])


@app.command()
def compare(
    config: Annotated[Path, typer.Argument(help="A YAML file, such as research/configs/hippocampus.yaml.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for runs, scores and figures.")],
    checkpoint: Annotated[
        list[str] | None, typer.Option(help="ARM=FILE: use this checkpoint instead of training the arm.")
    ] = None,
    only: Annotated[Stage | None, typer.Option(help="Run only this stage.")] = None,
    arm: Annotated[list[str] | None, typer.Option(help="Run only this arm; repeat for more. Default: all.")] = None,
    publish: Annotated[
        Path | None, typer.Option(help="Folder for the page with its figures, such as docs/results.")
    ] = None,
    device: Device = None,
) -> None:
    """Train methods on equal terms, score them over spacings, write tables and figures; resumes if interrupted."""
    with clear_errors("research"):
        from unet_factory_cli.training_roles import run_comparison

        run_comparison(config, output, checkpoint or [], only, arm or [], publish, device)


@app.command()
def evaluate(
    config: Annotated[Path, typer.Argument(help="The YAML file that the checkpoint was trained with.")],
    checkpoint: Annotated[
        list[Path], typer.Argument(help="A checkpoint file; several, such as folds, are scored as one ensemble.")
    ],
    split: Annotated[
        Literal["train", "validation", "test"],
        typer.Option(help="Which split to score; use test only for final figures."),
    ] = "validation",
    draws: Annotated[int, typer.Option(help="How many spacings to draw from the trained range.", min=1)] = 100,
    publish: Annotated[
        Path | None, typer.Option(help="Write a copy of the checkpoint with the figures in its manifest to this file.")
    ] = None,
    card: Annotated[Path | None, typer.Option(help="A model card into which the figures are written.")] = None,
    mirroring: Annotated[
        bool,
        typer.Option("--mirroring", help="Segment mirror images too, and take the mean; 2 to 8 times the work."),
    ] = False,
    even: Annotated[
        bool,
        typer.Option("--even", help="Segment at a working spacing that is even within the slice, of as large voxels."),
    ] = False,
    changes: Changes = None,
    as_json: AsJson = False,
) -> None:
    """Score a checkpoint: Dice per label at many spacings, each at its working resolution."""
    with clear_errors("training"):
        from unet_factory_cli.training_roles import run_evaluation

        run_evaluation(
            config,
            checkpoint,
            split,
            draws,
            publish,
            card,
            changes or [],
            mirroring=mirroring,
            even=even,
            as_json=as_json,
        )


@app.command()
def describe(
    config: Annotated[Path, typer.Argument(help="The YAML file that the checkpoint was trained with.")],
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint file.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Default: the checkpoint itself.")] = None,
    margin: Annotated[
        float | None,
        typer.Option(help="Values up to this factor beyond what was seen are plausible; default: 1.5.", min=1),
    ] = None,
    card: Annotated[Path | None, typer.Option(help="A model card into which the ranges are written.")] = None,
    changes: Changes = None,
    as_json: AsJson = False,
) -> None:
    """Record in a checkpoint what its training scans were like, so that implausible scans and results are noticed."""
    with clear_errors("training"):
        from unet_factory_cli.training_roles import run_description

        run_description(config, checkpoint, output or checkpoint, margin, card, changes or [], as_json=as_json)


@app.command()
def choose_postprocessing(
    config: Annotated[Path, typer.Argument(help="The YAML file that the checkpoint was trained with.")],
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint file.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Default: the checkpoint itself.")] = None,
    draws: Annotated[int, typer.Option(help="How many spacings to draw from the trained range.", min=0)] = 20,
    card: Annotated[Path | None, typer.Option(help="A model card into which the table is written.")] = None,
    changes: Changes = None,
    as_json: AsJson = False,
) -> None:
    """Keep only the largest connected components where that helps on the validation split; the weights stay."""
    with clear_errors("training"):
        from unet_factory_cli.training_roles import run_choice_of_postprocessing

        run_choice_of_postprocessing(
            config, checkpoint, output or checkpoint, draws, card, changes or [], as_json=as_json
        )


@app.command()
def choose_windows(
    config: Annotated[Path, typer.Argument(help="The YAML file that the checkpoint was trained with.")],
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint file.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Default: the checkpoint itself.")] = None,
    card: Annotated[Path | None, typer.Option(help="A model card into which the table is written.")] = None,
    changes: Changes = None,
    as_json: AsJson = False,
) -> None:
    """Let windows overlap less where that loses no Dice on the validation split; shows what bfloat16 costs too."""
    with clear_errors("training"):
        from unet_factory_cli.training_roles import run_choice_of_windows

        run_choice_of_windows(config, checkpoint, output or checkpoint, card, changes or [], as_json=as_json)


@app.command()
def compress(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint file.")],
    tolerance: Annotated[float, typer.Option(help="Largest change of a logit, relative to the largest one.")] = 1e-3,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Default: NAME.compressed.safetensors.")] = None,
    scan: Annotated[Path | None, typer.Option(help="Measure on the centre of this volume; default: on noise.")] = None,
    at_most_mb: Annotated[
        float | None,
        typer.Option(help="Instead of a tolerance: as many heads as fit into a file of so many megabytes.", min=0),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Shrink a checkpoint to fewer heads, if its networks still give the same answers."""
    with clear_errors("training"):
        from unet_factory_cli.training_roles import run_compression

        run_compression(checkpoint, tolerance, output, scan, at_most_mb, as_json=as_json)


@app.command()
def ensemble(
    checkpoint: Annotated[list[Path], typer.Argument(help="Checkpoint files of one task, such as folds; two or more.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The file to serve, such as models/my-model.safetensors.")
    ],
    name: Annotated[str | None, typer.Option(help="Of the model; default: the first checkpoint's.")] = None,
    as_json: AsJson = False,
) -> None:
    """Put several checkpoints into one file, which is served as one model: every scan gets their mean."""
    with clear_errors("training"):
        from unet_factory_cli.training_roles import run_ensemble

        run_ensemble(checkpoint, output, name, as_json=as_json)


@app.command()
def average(
    checkpoint: Annotated[
        list[Path], typer.Argument(help="Checkpoint files, of which one was trained on from another; two or more.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.")],
    as_json: AsJson = False,
) -> None:
    """Write the mean of checkpoints' weights: one network, as fast as one. Evaluate it before you serve it."""
    with clear_errors("training"):
        from unet_factory_cli.training_roles import run_average

        run_average(checkpoint, output, as_json=as_json)


@app.command()
def cka(
    checkpoint: Annotated[list[Path], typer.Argument(help="Checkpoint files that differ only in their weights.")],
    config: Annotated[Path, typer.Option(help="The YAML file that names the scans.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for figure, maps and summary.")],
    split: Annotated[Literal["train", "validation", "test"], typer.Option(help="Which scans.")] = "validation",
    finest: Annotated[str, typer.Option(help="mm (R,A,S) of the network that the others are compared with.")] = "1,1,1",
    coarsest: Annotated[str, typer.Option(help="mm (R,A,S) of the last network.")] = "2,2,2",
    steps: Annotated[int, typer.Option(help="How many spacings.", min=2)] = 11,
    crop_mm: Annotated[float, typer.Option(help="Extent of a crop in mm.", min=1)] = 32,
    crops: Annotated[int, typer.Option(help="Crops of each scan.", min=1)] = 1,
    batch: Annotated[int, typer.Option(help="Crops in a mini-batch, at least.", min=4)] = 16,
    estimator: Annotated[
        Literal["unbiased", "biased"], typer.Option(help="Which estimator of HSIC to use.")
    ] = "unbiased",
    seed: Annotated[int, typer.Option(help="Seed for the positions of the crops.")] = 0,
    publish: Annotated[
        Path | None, typer.Option(help="Folder for the page's figure, such as docs/results-cka.")
    ] = None,
    device: Device = None,
) -> None:
    """Compare the layers of generated networks: within one, across spacings, across checkpoints (CKA)."""
    with clear_errors("research"):
        from unet_factory_cli.training_roles import run_cka

        crop_options = {"crop_mm": crop_mm, "crops": crops, "batch": batch, "seed": seed}
        options = {"split": split, "steps": steps, "estimator": estimator, **crop_options}
        run_cka(checkpoint, config, output, finest, coarsest, options, publish, device)
