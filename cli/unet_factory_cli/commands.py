"""The command ``unet-factory``. A role is imported only when its subcommand runs."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from unet_factory import __version__
from unet_factory_cli import delivery_commands, job_commands, key_commands, training_commands
from unet_factory_cli.failures import FAILED, clear_errors
from unet_factory_cli.options import (
    DEFAULT_URL,
    DTYPES,
    ApiKey,
    AsJson,
    Conditions,
    DataDir,
    Host,
    ModelName,
    Models,
    Outside,
    Port,
    Url,
)
from unet_factory_cli.user_data import user_data_dir

DEFAULT_PORT = 8000
DEFAULT_DICOM_PORT = 11112

EXIT_CODES = "Exit codes of all commands: 0, done; 1, failed; 2, called wrongly."


class Commands(TyperGroup):
    """All commands by name; ``segment`` is made when it is run, explained or completed: that imports pydantic."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        if name == "segment":
            with clear_errors("local" if "--local" in rest else "cli"):
                from unet_factory_cli.segment import app as segment_app

                command = typer.main.get_command(segment_app)
        return name, command, rest


app = typer.Typer(
    cls=Commands,
    help="U-Net factory: segmentation networks made to measure for a scan's voxel spacing.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

app.add_typer(training_commands.app)
app.add_typer(job_commands.app, name="jobs")
app.add_typer(key_commands.app, name="keys")
app.add_typer(delivery_commands.app, name="deliveries")


@app.command()
def serve(
    host: Host = "127.0.0.1",
    port: Port = DEFAULT_PORT,
    data_dir: Annotated[Path | None, typer.Option(help="Jobs and files; default: your user data folder.")] = None,
    models: Models = Path("models"),
    workers: Annotated[int, typer.Option(help="Workers, over which GPUs or cores are divided.", min=1)] = 1,
) -> None:
    """Run the whole factory here: workers, gateway and, unless UNET_FACTORY_REDIS_URL is set, Redis servers too."""
    with clear_errors("serve"):
        from unet_factory_cli.serve import ServeOptions
        from unet_factory_cli.serve import serve as run

        run(ServeOptions(host, port, data_dir or user_data_dir(), models, workers))


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
    allow: Annotated[list[str], typer.Option(help="AE title that may send; repeat for more. '*' allows any.")],
    spool: Annotated[Path, typer.Option(help="Folder for instances that the gateway has not received yet.")],
    ae_title: Annotated[str, typer.Option(help="The listener's own AE title.")] = "UNETFACTORY",
    host: Host = "127.0.0.1",
    port: Port = DEFAULT_DICOM_PORT,
    quiet: Annotated[
        float, typer.Option(help="Seconds without a new instance after which a series is sent to the gateway.")
    ] = 2.0,
    after_abort: Annotated[float, typer.Option(help="Like --quiet, for a series whose sender was cut off.")] = 60.0,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
) -> None:
    """Receive series by DICOM C-STORE and pass them on to the gateway, whose rules decide what becomes of them."""
    with clear_errors("listener"):
        from unet_factory_cli.roles import run_listener

        run_listener(allow, spool, ae_title, host, port, quiet, after_abort, url, api_key)


@app.command()
def settings(as_json: AsJson = False) -> None:
    """List every UNET_FACTORY_* variable with its default and meaning, as a Markdown table."""
    with clear_errors("role"):
        from unet_factory_cli.settings import settings_json, settings_table

        typer.echo(settings_json() if as_json else settings_table(), nl=False)


@app.command()
def doctor(
    data_dir: DataDir = None,
    url: Url = DEFAULT_URL,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False,
) -> None:
    """Check stores, models, workers, keys, disk, clock, GPU and archives, and say what to do; exit code 1: a failure.

    Looks where the UNET_FACTORY_* variables say or, without UNET_FACTORY_REDIS_URL, at what serve runs on --data-dir.
    """
    with clear_errors("serve"):
        from unet_factory_cli.doctor import examination

        if not examination.run(data_dir or user_data_dir(), url, as_json=as_json):
            raise typer.Exit(FAILED)


@app.command()
def segment() -> None:
    """Segment scans, each on its own grid; a DICOM series also as DICOM objects for its study."""
    raise AssertionError("Commands.resolve_command puts the command with its options in this one's place")


@app.command()
def unet(
    spacing: Annotated[str, typer.Option(help="mm (R,A,S), such as 1,0.5,0.5.")],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="The file; its suffix says the format: .safetensors, .onnx, .pt2 or, for a MONAI bundle, .zip.",
        ),
    ],
    dtype: Annotated[
        str, typer.Option(help="float32, or float16 for half the bytes.", autocompletion=lambda: DTYPES)
    ] = "float32",
    condition: Conditions = None,
    model: ModelName = None,
    member: Annotated[int | None, typer.Option(help="Which network of an ensemble, from 1 on.", min=1)] = None,
    outside: Outside = None,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
) -> None:
    """Fetch the standalone network for a spacing."""
    with clear_errors("cli"):
        from unet_factory_cli import remote

        at = remote.Address.of(url, api_key)
        remote.unet(at, spacing, output, dtype, condition or [], model, member, outside, as_json=as_json)


@app.command()
def quote(
    scan: Annotated[Path, typer.Argument(help="A volume or a DICOM series: only its header is read, here.")],
    model: ModelName = None,
    spacing: Annotated[str | None, typer.Option(help="mm (R,A,S); replaces the one in the scan's header.")] = None,
    working_spacing: Annotated[
        str | None, typer.Option(help="The finest spacing to quote, mm (R,A,S); default: the scan's own.")
    ] = None,
    outside: Outside = None,
    budget_seconds: Annotated[float | None, typer.Option(help="Mark the finest spacing within this time.")] = None,
    budget_bytes: Annotated[int | None, typer.Option(help="Mark the finest spacing within this memory.")] = None,
    mirroring: Annotated[bool, typer.Option("--mirroring", help="The price with the scan's mirror images.")] = False,
    progressive: Annotated[
        bool, typer.Option("--progressive", help="The price with a coarse label map first.")
    ] = False,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
) -> None:
    """Show what a scan would cost at its own spacing and at coarser ones, without uploading it."""
    with clear_errors("cli"):
        from unet_factory_cli import quotes, remote

        wishes = quotes.Wishes(
            model, spacing, working_spacing, outside, budget_seconds, budget_bytes, mirroring, progressive
        )
        quotes.show_quote(remote.Address.of(url, api_key), scan, wishes, as_json=as_json)


@app.command()
def models(as_json: AsJson = False, url: Url = DEFAULT_URL, api_key: ApiKey = None) -> None:
    """List the gateway's models."""
    with clear_errors("cli"):
        from unet_factory_cli import remote

        remote.models(remote.Address.of(url, api_key), as_json=as_json)


@app.command()
def status(as_json: AsJson = False, url: Url = DEFAULT_URL, api_key: ApiKey = None) -> None:
    """Show the gateway's workers, queues and cache."""
    with clear_errors("cli"):
        from unet_factory_cli import remote

        remote.status(remote.Address.of(url, api_key), as_json=as_json)


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the picture.")] = Path("demo-output"),
    models: Annotated[Path | None, typer.Option(help="Folder of models; default: the shipped ones.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="At two spacings instead of six.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show everything on real scans: start the factory, segment at many spacings, compare with experts, stop it."""
    with clear_errors("demo"):
        from unet_factory_cli.demo import QUICK, SPACINGS, run_demo

        run_demo(output, models, QUICK if quick else SPACINGS, as_json=as_json)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"unet-factory {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass
