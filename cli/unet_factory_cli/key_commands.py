"""The commands that manage API keys."""

from pathlib import Path
from typing import Annotated

import typer

from unet_factory_cli.failures import clear_errors
from unet_factory_cli.options import AsJson, DataDir
from unet_factory_cli.user_data import user_data_dir

app = typer.Typer(help="API keys: who may use the gateway, and for what.", no_args_is_help=True)

KeyId = Annotated[str, typer.Argument(help="The key's id, which is the middle part of the key.")]


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="A name for the key's holder; never use a patient's name.")],
    scope: Annotated[list[str], typer.Option(help="segment, weights, read or admin; repeat for more.")],
    shares_jobs_of: Annotated[str | None, typer.Option(help="Id of another key; both then see the same jobs.")] = None,
    days: Annotated[float | None, typer.Option(help="Days until the key expires; default: never.", min=0)] = None,
    requests_per_minute: Annotated[int | None, typer.Option(help="0: no limit; default: the gateway's.", min=0)] = None,
    jobs_in_flight: Annotated[int | None, typer.Option(help="0: no limit; default: the gateway's.", min=0)] = None,
    stored_bytes: Annotated[int | None, typer.Option(help="0: no limit; default: the gateway's.", min=0)] = None,
    secret_file: Annotated[
        Path | None, typer.Option(help="Write the key to this file, unless it already holds a valid key of that name.")
    ] = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Make a key and write it to standard output or to a file; it cannot be shown again."""
    with clear_errors("service"):
        from unet_factory_cli import keys

        folder = data_dir or user_data_dir()
        limits = keys.Limits(days, requests_per_minute, jobs_in_flight, stored_bytes)
        keys.create(folder, name, scope, shares_jobs_of, limits, secret_file, as_json=as_json)


@app.command("list")
def list_keys(as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """List all keys, without their secrets, which are not stored."""
    with clear_errors("service"):
        from unet_factory_cli import keys

        keys.show(data_dir or user_data_dir(), as_json=as_json)


@app.command()
def revoke(key_id: KeyId, as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """Revoke a key, at once and for good."""
    with clear_errors("service"):
        from unet_factory_cli import keys

        keys.revoke(data_dir or user_data_dir(), key_id, as_json=as_json)


@app.command()
def rotate(
    key_id: KeyId,
    overlap: Annotated[float, typer.Option(help="Hours for which the old secret stays valid.", min=0)] = 24.0,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Give a key a new secret; it keeps its id and its jobs."""
    with clear_errors("service"):
        from unet_factory_cli import keys

        keys.rotate(data_dir or user_data_dir(), key_id, overlap, as_json=as_json)
