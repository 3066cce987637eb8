"""The commands about jobs, which talk to a running gateway."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import typer
from pydantic import TypeAdapter
from rich.console import Console
from rich.table import Column, Table

from unet_factory_cli.failures import MISUSED, CommandFailed, say
from unet_factory_cli.remote import Address, gateway
from unet_factory_cli.scans import check_folder
from unet_factory_client import Job, JobState


def show_all(at: Address, states: Sequence[str], limit: int, *, as_json: bool) -> None:
    """
    Raises:
        CommandFailed: there is no such state, or the gateway refuses.
    """
    try:
        wanted = [JobState(state) for state in states]
    except ValueError:
        raise CommandFailed(f"--state is {', '.join(states)}; allowed are {', '.join(JobState)}", MISUSED) from None
    with gateway(at) as client:
        found = list(islice(client.jobs(*wanted, page_size=min(limit, 200)), limit))
    if as_json:
        typer.echo(TypeAdapter(list[Job]).dump_json(found, indent=2))
        return
    whole = [Column(name, no_wrap=True) for name in ("id", "state", "created (UTC)")]
    table = Table(*whole, Column("model", overflow="fold"), "what")
    for job in found:
        table.add_row(*_cells(job))
    Console().print(table)


def show(at: Address, job_id: str, *, wait: bool, as_json: bool) -> None:
    """
    Raises:
        CommandFailed: it failed or was cancelled, or the gateway refuses.
    """
    with gateway(at) as client:
        job = client.wait(job_id) if wait else client.job(job_id)
    if as_json:
        typer.echo(job.model_dump_json(indent=2))
    else:
        table = Table("", "", show_header=False)
        for name, value in job.model_dump(mode="json", exclude_none=True, exclude_defaults=True).items():
            table.add_row(name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
        Console().print(table)
    if job.state in (JobState.FAILED, JobState.CANCELLED):
        raise CommandFailed(f"job {job.id}: {_reason(job)}")


def fetch(at: Address, job_id: str, wanted: Mapping[str, Path | None], *, as_json: bool) -> None:
    """
    Args:
        wanted: the file for each result, by the name of the client's method that downloads it.

    Raises:
        CommandFailed: no result is named, a folder does not exist, or the gateway refuses.
    """
    files = {result: path for result, path in wanted.items() if path is not None}
    if not files:
        raise CommandFailed("name at least one file: --output, --coarse, --preview, --seg or --report", MISUSED)
    for path in files.values():
        check_folder(path)
    with gateway(at) as client:
        for result, path in files.items():
            getattr(client, result)(job_id, path)
    if as_json:
        typer.echo(json.dumps({result: str(path) for result, path in files.items()}))
    else:
        say(f"saved {', '.join(map(str, files.values()))}")


def delete(at: Address, job_ids: Sequence[str], *, as_json: bool) -> None:
    with gateway(at) as client:
        for job_id in job_ids:
            client.delete(job_id)
    if as_json:
        typer.echo(json.dumps({"deleted": list(job_ids)}))
    else:
        say(f"deleted {', '.join(job_ids)}")


def _cells(job: Job) -> list[str]:
    spacing = job.spacing.working or job.spacing.native
    at = "" if spacing is None else " x ".join(f"{mm:g}" for mm in spacing) + " mm"
    created = datetime.fromtimestamp(job.created, UTC).strftime("%m-%d %H:%M")
    return [job.id, job.state, created, job.model, at if job.error is None else job.error.title]


def _reason(job: Job) -> str:
    return f"the job was {job.state}" if job.error is None else f"{job.error.title}: {job.error.detail}"
