"""``unet-factory quote``: the price of a scan, from its header alone."""

import math
from pathlib import Path
from typing import NamedTuple

import typer
from rich.console import Console
from rich.table import Table

from unet_factory.volume import VolumeHeader, read_header
from unet_factory_cli.failures import MISUSED, CommandFailed, say
from unet_factory_cli.remote import Address, gateway, policy_option, spacing_option
from unet_factory_client import Quote, QuoteOption
from unet_factory_client.files import one_file

_MEGABYTE = 1e6


class Wishes(NamedTuple):
    """What was given on the command line."""

    model: str | None
    spacing: str | None
    working_spacing: str | None
    outside: str | None
    budget_seconds: float | None
    budget_bytes: int | None
    mirroring: bool
    progressive: bool


def show_quote(at: Address, scan: Path, wishes: Wishes, *, as_json: bool) -> None:
    """
    Raises:
        CommandFailed: there is no such file, or the gateway refuses to quote.
        FactoryError: the file is not a volume that could be segmented.
    """
    if not scan.exists():
        raise CommandFailed(f"there is no file {scan}", MISUSED)
    header = _header(scan, wishes)
    with gateway(at) as client:
        answer = client.quote(
            header.shape_ras,
            header.spacing_ras_mm,
            model=wishes.model,
            working_spacing=spacing_option(wishes.working_spacing),
            outside=policy_option(wishes.outside),
            dicom=header.format == "dicom",
            budget_seconds=wishes.budget_seconds,
            budget_bytes=wishes.budget_bytes,
            mirroring=wishes.mirroring,
            progressive=wishes.progressive,
        )
    if as_json:
        typer.echo(answer.model_dump_json(indent=2))
    else:
        _print(answer, wishes)


def _header(scan: Path, wishes: Wishes) -> VolumeHeader:
    with one_file(scan) as file:
        return read_header(file, spacing_ras_mm=spacing_option(wishes.spacing))


def _print(answer: Quote, wishes: Wishes) -> None:
    table = Table("", "spacing (mm)", "voxels", "windows", "seconds", "memory (MB)", "expected Dice")
    for index, option in enumerate(answer.options):
        table.add_row("*" if index == answer.chosen else "", *_cells(option))
    Console().print(table)
    if answer.measurements == 0:
        say(f"the prices of {answer.model} are not known yet: no worker has run it often enough")
    elif answer.worker is not None:
        kind = answer.worker
        say(f"on {kind.device}, {kind.precision}, {kind.threads} threads; from {answer.measurements} measurements")
    wait = answer.queue
    how_long = "an unknown time" if wait.seconds is None else f"about {wait.seconds:.1f} s"
    say(f"queue: {wait.jobs} jobs ahead, {wait.workers} workers; {how_long} to wait")
    if answer.chosen is not None:
        say("*: the finest spacing within the budget")
    elif answer.measurements and (wishes.budget_seconds, wishes.budget_bytes) != (None, None):
        least_s = math.ceil(100 * min(option.seconds_high or 0.0 for option in answer.options)) / 100
        least_mb = math.ceil(min(option.peak_bytes_high or 0 for option in answer.options) / _MEGABYTE)
        say(f"no spacing keeps this budget; the least that would do is {least_s:.2f} s or {least_mb} MB")


def _cells(option: QuoteOption) -> list[str]:
    def upper(value: str, high: str) -> str:
        return f"{value} (up to {high})"

    dice = option.expected_dice
    return [
        " x ".join(f"{mm:g}" for mm in option.spacing) + (" native" if option.native else ""),
        " x ".join(map(str, option.shape)),
        str(option.tiles),
        "unknown" if option.seconds is None else upper(f"{option.seconds:.2f}", f"{option.seconds_high:.2f}"),
        "unknown"
        if option.peak_bytes is None or option.peak_bytes_high is None
        else upper(f"{option.peak_bytes / _MEGABYTE:.0f}", f"{option.peak_bytes_high / _MEGABYTE:.0f}"),
        "unknown" if dice is None else f"{dice.dice:.3f} ({dice.low:.3f} to {dice.high:.3f})",
    ]
