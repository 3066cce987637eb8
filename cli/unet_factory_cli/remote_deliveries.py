"""The commands about deliveries, which talk to a running gateway."""

from datetime import UTC, datetime
from typing import Literal

import typer
from pydantic import TypeAdapter
from rich.console import Console
from rich.table import Column, Table

from unet_factory_cli.failures import MISUSED, CommandFailed, say
from unet_factory_cli.remote import Address, gateway
from unet_factory_client import DeliveryDescription


def show(at: Address, state: Literal["dead", "pending"], *, as_json: bool) -> None:
    with gateway(at) as client:
        found = client.deliveries(state)
    if as_json:
        typer.echo(TypeAdapter(list[DeliveryDescription]).dump_json(found, indent=2))
        return
    table = Table(Column("id", no_wrap=True), "kind", "destination", "attempts", "next attempt (UTC)", "last error")
    for delivery in found:
        table.add_row(*_cells(delivery))
    Console().print(table)


def replay(at: Address, ids: list[str], every: bool, *, as_json: bool) -> None:
    """
    Raises:
        CommandFailed: neither ids nor all of them.
    """
    if bool(ids) == every:
        raise CommandFailed("give the ids of deliveries, or --all", MISUSED)
    with gateway(at) as client:
        wanted = [delivery.id for delivery in client.deliveries("dead")] if every else ids
        replayed = [client.replay(delivery_id) for delivery_id in wanted]
    if as_json:
        typer.echo(TypeAdapter(list[DeliveryDescription]).dump_json(replayed, indent=2))
        return
    say(f"{len(wanted)} will be tried again")


def _cells(delivery: DeliveryDescription) -> list[str]:
    following = delivery.next_attempt
    return [
        delivery.id,
        delivery.kind,
        delivery.destination,
        str(delivery.attempts),
        datetime.fromtimestamp(following, UTC).isoformat(sep=" ", timespec="seconds") if following else "",
        delivery.last_error or "",
    ]
