"""The command ``unet-factory``. A role is imported only when its subcommand runs."""

import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from unet_factory import __version__
from unet_factory_cli.failures import clear_errors

DEFAULT_URL = "http://127.0.0.1:8000"
DEFAULT_PORT = 8000
DEFAULT_DICOM_PORT = 11112

app = typer.Typer(
    help="U-Net factory: segmentation networks made to measure for a scan's voxel spacing.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

deliveries = typer.Typer(help="Webhooks and pushes to archives that are dead or wait.", no_args_is_help=True)
app.add_typer(deliveries, name="deliveries")

keys = typer.Typer(help="API keys: who may use the service, and for what.", no_args_is_help=True)
app.add_typer(keys, name="keys")

ApiKey = Annotated[
    str | None,
    typer.Option(envvar="UNET_FACTORY_API_KEY", show_default=False, help="Your key; or name a file by ..._KEY_FILE."),
]
KeyId = Annotated[str, typer.Argument(help="Its id, the middle part of the key.")]
DataDir = Annotated[Path | None, typer.Option(help="That of serve; default: your user data folder.")]
Url = Annotated[str, typer.Option(envvar="UNET_FACTORY_URL", help="Where the service answers.")]
ModelName = Annotated[str | None, typer.Option(help="Name of the model; the service's default if not given.")]
Changes = Annotated[list[str] | None, typer.Option("--set", help="NAME=VALUE; again for each.")]
Conditions = Annotated[
    list[str] | None,
    typer.Option("--condition", help="NAME=NUMBER, such as inversion_time_ms=900; again for each. See models."),
]
Outside = Annotated[str | None, typer.Option(help="Outside the trained range: clamp, reject or extrapolate.")]
Device = Annotated[str | None, typer.Option(help="cpu or cuda[:N]; default: a GPU if there is one.")]
Stage = Literal["train", "evaluate", "cost", "report"]
Host = Annotated[str, typer.Option(help="Address to listen on.")]
Port = Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)]


@app.command()
def serve(
    host: Host = "127.0.0.1",
    port: Port = DEFAULT_PORT,
    data_dir: Annotated[Path | None, typer.Option(help="Jobs and files; default: your user data folder.")] = None,
    models: Annotated[Path, typer.Option(envvar="UNET_FACTORY_MODELS_DIR", help="Folder of models.")] = Path("models"),
    workers: Annotated[int, typer.Option(help="How many workers.", min=1)] = 1,
) -> None:
    """Run the whole factory here: workers, gateway and, unless UNET_FACTORY_REDIS_URL names one, servers of its own."""
    with clear_errors("serve"):
        from unet_factory_cli.serve import ServeOptions
        from unet_factory_cli.serve import serve as run

        run(ServeOptions(host, port, data_dir or _user_data_dir(), models, workers))


@app.command()
def gateway(host: Host = "127.0.0.1", port: Port = DEFAULT_PORT) -> None:
    """Run the HTTP gateway alone, set up by UNET_FACTORY_* variables."""
    with clear_errors("service"):
        from unet_factory_cli.roles import run_gateway

        run_gateway(host, port)


@app.command()
def worker() -> None:
    """Run one worker alone, set up by UNET_FACTORY_* variables."""
    with clear_errors("worker"):
        from unet_factory_cli.roles import run_worker

        run_worker()


@app.command()
def courier() -> None:
    """Run one courier alone, set up by UNET_FACTORY_* variables: fetches series, delivers results and webhooks."""
    with clear_errors("courier"):
        from unet_factory_cli.roles import run_courier

        run_courier()


@app.command("dicom-listen")
def dicom_listen(
    allow: Annotated[list[str], typer.Option(help="AE title that may send, again for each; '*' for anybody.")],
    spool: Annotated[Path, typer.Option(help="Folder for what the gateway does not have yet.")],
    ae_title: Annotated[str, typer.Option(help="Our own AE title.")] = "UNETFACTORY",
    host: Host = "127.0.0.1",
    port: Port = DEFAULT_DICOM_PORT,
    quiet: Annotated[float, typer.Option(help="Seconds without a new instance until a series is passed on.")] = 2.0,
    after_abort: Annotated[float, typer.Option(help="The same for a series whose sender was cut off.")] = 60.0,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
) -> None:
    """Receive series by DICOM C-STORE and pass them on to the gateway, whose rules decide what becomes of them."""
    with clear_errors("listener"):
        from unet_factory_cli.roles import run_listener

        run_listener(allow, spool, ae_title, host, port, quiet, after_abort, url, api_key)


@app.command()
def settings() -> None:
    """List every UNET_FACTORY_* variable with its default and meaning, as a Markdown table."""
    with clear_errors("role"):
        from unet_factory_cli.settings import settings_table

        typer.echo(settings_table(), nl=False)


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="A YAML file, such as configs/hippocampus-mr.yaml.")],
    run_dir: Annotated[Path | None, typer.Option(help="Logs and state; default: runs/NAME.")] = None,
    device: Device = None,
    changes: Changes = None,
) -> None:
    """Train a hypernetwork, resuming where an earlier run of the same configuration was interrupted."""
    with clear_errors("training"):
        from unet_factory_cli.roles import run_training

        run_training(config, run_dir, device, changes or [])


@app.command()
def compare(
    config: Annotated[Path, typer.Argument(help="A YAML file, such as research/configs/hippocampus.yaml.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for runs, scores and figures.")],
    checkpoint: Annotated[list[str] | None, typer.Option(help="ARM=FILE: use this, do not train it.")] = None,
    only: Annotated[Stage | None, typer.Option(help="Do this stage only.")] = None,
    arm: Annotated[list[str] | None, typer.Option(help="Only this arm; again for each. Default: all.")] = None,
    publish: Annotated[Path | None, typer.Option(help="Folder for the page with its figures, as docs/results.")] = None,
    device: Device = None,
) -> None:
    """Train methods on equal terms, score them over spacings, and write tables and figures; resumes what is there."""
    with clear_errors("research"):
        from unet_factory_cli.roles import run_comparison

        run_comparison(config, output, checkpoint or [], only, arm or [], publish, device)


@app.command()
def evaluate(
    config: Annotated[Path, typer.Argument(help="The YAML file that the checkpoint was trained with.")],
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint file.")],
    split: Annotated[
        Literal["train", "validation", "test"], typer.Option(help="Scans; test for a last word.")
    ] = "validation",
    draws: Annotated[int, typer.Option(help="Spacings drawn from the trained range.", min=1)] = 100,
    publish: Annotated[Path | None, typer.Option(help="Write a copy with the figures in its manifest here.")] = None,
    card: Annotated[Path | None, typer.Option(help="A model card to put the figures into.")] = None,
    changes: Changes = None,
) -> None:
    """Score a checkpoint: Dice per label at many spacings, each at its working resolution."""
    with clear_errors("training"):
        from unet_factory_cli.roles import run_evaluation

        run_evaluation(config, checkpoint, split, draws, publish, card, changes or [])


@app.command()
def compress(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint file.")],
    tolerance: Annotated[float, typer.Option(help="Largest change of a logit, relative to the largest one.")] = 1e-3,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Default: NAME.compressed.safetensors.")] = None,
    scan: Annotated[Path | None, typer.Option(help="Measure on this volume's centre; default: on noise.")] = None,
) -> None:
    """Shrink a checkpoint to fewer heads; refuse where its networks would no longer answer the same."""
    with clear_errors("training"):
        from unet_factory_cli.roles import run_compression

        run_compression(checkpoint, tolerance, output, scan)


@app.command()
def cka(
    checkpoint: Annotated[list[Path], typer.Argument(help="Checkpoint files that differ in their weights only.")],
    config: Annotated[Path, typer.Option(help="The YAML file that names the scans.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for figure, maps and summary.")],
    split: Annotated[Literal["train", "validation", "test"], typer.Option(help="Which scans.")] = "validation",
    finest: Annotated[str, typer.Option(help="mm (R,A,S) of the network that the others are compared with.")] = "1,1,1",
    coarsest: Annotated[str, typer.Option(help="mm (R,A,S) of the last network.")] = "2,2,2",
    steps: Annotated[int, typer.Option(help="How many spacings.", min=2)] = 11,
    crop_mm: Annotated[float, typer.Option(help="Extent of a crop in mm.", min=1)] = 32,
    crops: Annotated[int, typer.Option(help="Crops of each scan.", min=1)] = 1,
    batch: Annotated[int, typer.Option(help="Crops in a mini-batch, at least.", min=4)] = 16,
    estimator: Annotated[Literal["unbiased", "biased"], typer.Option(help="Of HSIC.")] = "unbiased",
    seed: Annotated[int, typer.Option(help="Decides where the crops lie.")] = 0,
    publish: Annotated[Path | None, typer.Option(help="Folder of the page's figure, as docs/results-cka.")] = None,
    device: Device = None,
) -> None:
    """Compare the layers of generated networks: within one, across spacings, across checkpoints (CKA)."""
    with clear_errors("research"):
        from unet_factory_cli.roles import run_cka

        crop_options = {"crop_mm": crop_mm, "crops": crops, "batch": batch, "seed": seed}
        options = {"split": split, "steps": steps, "estimator": estimator, **crop_options}
        run_cka(checkpoint, config, output, finest, coarsest, options, publish, device)


@app.command()
def segment(
    file: Annotated[Path, typer.Argument(help="A NIfTI, MHA or NRRD volume; a DICOM series: zip or folder.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The label map: .nii.gz or .nrrd; the DICOM segmentation: .dcm.")
    ],
    report: Annotated[Path | None, typer.Option(help="Save the DICOM measurement report, .dcm, here too.")] = None,
    seg_type: Annotated[
        Literal["binary", "labelmap"] | None, typer.Option(help="Of the DICOM segmentation; default: binary.")
    ] = None,
    spacing: Annotated[str | None, typer.Option(help="mm (R,A,S), overrides the file's header.")] = None,
    working_spacing: Annotated[str | None, typer.Option(help="mm (R,A,S) to segment at; default: its own.")] = None,
    condition: Conditions = None,
    model: ModelName = None,
    outside: Outside = None,
    series_uid: Annotated[str | None, typer.Option(help="Which one, where there are several DICOM series.")] = None,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
) -> None:
    """Segment a scan, on its own grid; of a DICOM series also as DICOM objects for its study."""
    with clear_errors("cli"):
        from unet_factory_cli import remote

        wanted = remote.Results(output, report, seg_type)
        at = remote.Address.of(url, api_key)
        remote.segment(at, file, wanted, spacing, working_spacing, condition or [], model, outside, series_uid)


@app.command()
def unet(
    spacing: Annotated[str, typer.Option(help="mm (R,A,S), such as 1,0.5,0.5.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="A safetensors file.")],
    dtype: Annotated[str, typer.Option(help="float32 or float16.")] = "float32",
    condition: Conditions = None,
    model: ModelName = None,
    outside: Outside = None,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
) -> None:
    """Fetch the standalone network for a spacing."""
    with clear_errors("cli"):
        from unet_factory_cli import remote

        remote.unet(remote.Address.of(url, api_key), spacing, output, dtype, condition or [], model, outside)


@app.command()
def models(url: Url = DEFAULT_URL, api_key: ApiKey = None) -> None:
    """List the service's models."""
    with clear_errors("cli"):
        from unet_factory_cli import remote

        remote.models(remote.Address.of(url, api_key))


@deliveries.command("list")
def list_deliveries(
    state: Annotated[Literal["dead", "pending"], typer.Option(help="Which.")] = "dead",
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
) -> None:
    """List deliveries that were given up, or that wait for their next attempt."""
    with clear_errors("cli"):
        from unet_factory_cli import remote, remote_deliveries

        remote_deliveries.show(remote.Address.of(url, api_key), state)


@deliveries.command()
def replay(
    ids: Annotated[list[str] | None, typer.Argument(help="Ids of deliveries.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All that are dead.")] = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
) -> None:
    """Make deliveries due again, at once."""
    with clear_errors("cli"):
        from unet_factory_cli import remote, remote_deliveries

        remote_deliveries.replay(remote.Address.of(url, api_key), ids or [], every)


@keys.command()
def create(
    name: Annotated[str, typer.Argument(help="Your word for its holder; never a patient's.")],
    scope: Annotated[list[str], typer.Option(help="segment, weights, read or admin; again for each.")],
    shares_jobs_of: Annotated[str | None, typer.Option(help="Id of the key whose jobs it shares.")] = None,
    days: Annotated[float | None, typer.Option(help="It expires after so many; default: never.", min=0)] = None,
    requests_per_minute: Annotated[int | None, typer.Option(help="0: any; default: the gateway's.", min=0)] = None,
    jobs_in_flight: Annotated[int | None, typer.Option(help="0: any; default: the gateway's.", min=0)] = None,
    data_dir: DataDir = None,
) -> None:
    """Make a key. It is written to standard output, this once."""
    with clear_errors("service"):
        from unet_factory_cli import keys

        folder = data_dir or _user_data_dir()
        keys.create(folder, name, scope, shares_jobs_of, days, requests_per_minute, jobs_in_flight)


@keys.command("list")
def list_keys(data_dir: DataDir = None) -> None:
    """List all keys, without their secrets: nobody has those."""
    with clear_errors("service"):
        from unet_factory_cli import keys

        keys.show(data_dir or _user_data_dir())


@keys.command()
def revoke(key_id: KeyId, data_dir: DataDir = None) -> None:
    """End a key at once, for good."""
    with clear_errors("service"):
        from unet_factory_cli import keys

        keys.revoke(data_dir or _user_data_dir(), key_id)


@keys.command()
def rotate(
    key_id: KeyId,
    overlap: Annotated[float, typer.Option(help="Hours that the present secret holds on.", min=0)] = 24.0,
    data_dir: DataDir = None,
) -> None:
    """Give a key a new secret; its id and its jobs stay."""
    with clear_errors("service"):
        from unet_factory_cli import keys

        keys.rotate(data_dir or _user_data_dir(), key_id, overlap)


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the picture.")] = Path("demo-output"),
    models: Annotated[Path | None, typer.Option(help="Folder of models; default: the project's own.")] = None,
) -> None:
    """Show everything on real scans: start the factory, segment at many spacings, compare with experts, stop it."""
    with clear_errors("demo"):
        from unet_factory_cli.demo import run_demo

        run_demo(output, models)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"unet-factory {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
) -> None:
    pass


def _user_data_dir() -> Path:
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "unet-factory"
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "unet-factory"
