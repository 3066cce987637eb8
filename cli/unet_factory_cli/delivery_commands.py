"""The commands that list and repeat deliveries."""

from typing import Annotated, Literal

import typer

from unet_factory_cli.failures import clear_errors
from unet_factory_cli.options import DEFAULT_URL, ApiKey, AsJson, Url

app = typer.Typer(help="Webhooks and transfers to archives that failed or are waiting.", no_args_is_help=True)


@app.command("list")
def list_deliveries(
    state: Annotated[Literal["dead", "pending"], typer.Option(help="dead (given up) or pending (waiting).")] = "dead",
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
) -> None:
    """List deliveries that were given up, or that wait for their next attempt."""
    with clear_errors("cli"):
        from unet_factory_cli import remote, remote_deliveries

        remote_deliveries.show(remote.Address.of(url, api_key), state, as_json=as_json)


@app.command()
def replay(
    ids: Annotated[list[str] | None, typer.Argument(help="Ids of deliveries.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All dead deliveries.")] = False,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
) -> None:
    """Try deliveries again, at once."""
    with clear_errors("cli"):
        from unet_factory_cli import remote, remote_deliveries

        remote_deliveries.replay(remote.Address.of(url, api_key), ids or [], every, as_json=as_json)
