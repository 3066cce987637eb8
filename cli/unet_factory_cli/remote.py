"""The commands that talk to a running gateway."""

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple, Self, cast

import httpx
import typer
from pydantic import TypeAdapter
from rich.console import Console
from rich.table import Column, Table

from unet_factory.domain.conditions import parse_conditions
from unet_factory.domain.errors import ConditionInvalid, SpacingInvalid
from unet_factory.domain.jobs import NetworkFormat
from unet_factory.domain.spacing import OutsidePolicy, SpacingMm, parse_spacing
from unet_factory_cli.failures import MISUSED, CommandFailed, say
from unet_factory_cli.options import DTYPES
from unet_factory_cli.own_key import own_key
from unet_factory_cli.scans import check_folder
from unet_factory_client import FactoryClient, FactoryProblem, ModelDescription

NETWORK_SUFFIXES: dict[str, NetworkFormat] = {
    ".safetensors": "safetensors",
    ".onnx": "onnx",
    ".pt2": "pt2",
    ".zip": "bundle",
}
_UNAUTHORIZED = 401


def unet(
    at: "Address",
    spacing: str,
    output: Path,
    dtype: str,
    conditions: Sequence[str],
    model: str | None,
    member: int | None,
    outside: str | None,
    *,
    as_json: bool,
) -> None:
    """The suffix of ``output`` says the format.

    Raises:
        CommandFailed: a value or a suffix that is not allowed, or the gateway refuses.
    """
    if dtype not in DTYPES:
        raise CommandFailed(f"--dtype is {dtype!r}, allowed are {', '.join(DTYPES)}", MISUSED)
    wanted, known, policy = spacing_option(spacing), _conditions(conditions), policy_option(outside)
    assert wanted is not None
    file_format = NETWORK_SUFFIXES.get(output.suffix)
    if file_format is None:
        raise CommandFailed(f"{output} must end with {', '.join(NETWORK_SUFFIXES)} (a MONAI bundle)", MISUSED)
    check_folder(output)
    with gateway(at) as client:
        network = client.unet(
            wanted,
            model=model,
            member=member,
            file_format=file_format,
            dtype=cast(Literal["float32", "float16"], dtype),
            conditions=known,
            outside=policy,
        )
    network.save(output)
    if as_json:
        typer.echo(
            json.dumps(
                {
                    "output": str(output),
                    "model": network.headers["x-model"],
                    "checkpoint_digest": network.headers["x-checkpoint-digest"],
                    "requested_mm": network.requested_mm,
                    "snapped_mm": network.snapped_mm,
                    "bytes": len(network.blob),
                    "etag": network.etag,
                }
            )
        )
        return
    snapped = ",".join(f"{mm:g}" for mm in network.snapped_mm)
    made_for = network.headers.get("x-conditions")
    also = f" and {made_for}" if made_for else ""
    by = network.headers["x-model"]
    say(f"{output}: {len(network.blob)} bytes, made by {by} for {snapped} mm (R,A,S){also}, ETag {network.etag}")


def models(at: "Address", *, as_json: bool) -> None:
    with gateway(at) as client:
        found = client.models()
    if as_json:
        typer.echo(TypeAdapter(list[ModelDescription]).dump_json(found, indent=2))
        return
    table = Table(
        Column("name", no_wrap=True),
        "labels",
        "trained range (mm)",
        "conditions",
        "licence",
        Column("digest", no_wrap=True),
    )
    for model in found:
        table.add_row(*_cells(model))
    Console().print(table)


def status(at: "Address", *, as_json: bool) -> None:
    with gateway(at) as client:
        found = client.status()
    if as_json:
        typer.echo(found.model_dump_json(indent=2))
        return
    table = Table("device", "precision", "threads", "models", title=f"workers at {at.url}, version {found.version}")
    for worker in found.workers:
        table.add_row(worker.device, worker.precision or "", str(worker.threads or ""), ", ".join(worker.models))
    Console().print(table)
    say(f"segmentations: {found.active_jobs} wait or run, {found.queued_jobs} of them not taken by a worker yet")
    waiting = ", ".join(f"{count} {kind}" for kind, count in found.pending_deliveries.items() if count)
    say(f"networks waiting to be made: {found.queued_networks}; deliveries waiting: {waiting or 'none'}")
    limit = f" of {found.cache_max_bytes / 1e6:.0f}" if found.cache_max_bytes else ""
    say(f"cache of networks: {found.cache_used_bytes / 1e6:.0f}{limit} MB")


class Address(NamedTuple):
    """Where a gateway answers, and to whom."""

    url: str
    api_key: str | None

    @classmethod
    def of(cls, url: str, api_key: str | None) -> Self:
        """
        Raises:
            CommandFailed: the file that should hold the key cannot be read.
        """
        return cls(url, own_key(api_key))


@contextmanager
def gateway(at: Address) -> Iterator[FactoryClient]:
    """A client of a gateway that answers; what the gateway refuses becomes one clear line."""
    logging.getLogger("stamina").setLevel(logging.ERROR)
    try:
        with FactoryClient(at.url, api_key=at.api_key) as client:
            client.check()
            yield client
    except FactoryProblem as problem:
        raise CommandFailed(f"{problem.title}: {with_hint(problem)}") from problem
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise CommandFailed(
            f"no gateway answers at {at.url} ({error or type(error).__name__});"
            " start one with `unet-factory serve`, or name another with --url"
        ) from error


def with_hint(problem: FactoryProblem) -> str:
    """The problem's detail, and what to do about a missing key."""
    hint = "; pass --api-key or set UNET_FACTORY_API_KEY" if problem.status == _UNAUTHORIZED else ""
    return f"{problem.detail}{hint}"


def _cells(model: ModelDescription) -> list[str]:
    return [
        model.name,
        ", ".join(label.name for label in model.labels if label.value),
        " x ".join(f"{low:g}-{high:g}" for low, high in model.trained_range_mm),
        ", ".join(f"{known.name} {known.minimum:g}-{known.maximum:g}" for known in model.conditions),
        model.licence,
        model.digest[:12],
    ]


def spacing_option(text: str | None) -> SpacingMm | None:
    try:
        return None if text is None else parse_spacing(text)
    except SpacingInvalid as error:
        raise CommandFailed(str(error), MISUSED) from error


def _conditions(given: Sequence[str]) -> dict[str, float]:
    try:
        return parse_conditions(",".join(given)) if given else {}
    except ConditionInvalid as error:
        raise CommandFailed(str(error), MISUSED) from error


def policy_option(text: str | None) -> OutsidePolicy | None:
    try:
        return None if text is None else OutsidePolicy(text)
    except ValueError:
        raise CommandFailed(f"--outside is {text!r}, allowed are {', '.join(OutsidePolicy)}", MISUSED) from None
