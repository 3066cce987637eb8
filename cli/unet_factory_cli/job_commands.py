"""The commands about jobs: what became of them, their results again, and their end."""

from pathlib import Path
from typing import Annotated

import typer

from unet_factory_cli.failures import clear_errors
from unet_factory_cli.options import DEFAULT_URL, ApiKey, AsJson, Url

STATES = ("queued", "running", "succeeded", "failed", "cancelled")

app = typer.Typer(help="Your segmentations at the gateway, from upload until they expire.", no_args_is_help=True)

JobId = Annotated[str, typer.Argument(help="The job's id.")]


@app.command("list")
def list_jobs(
    state: Annotated[
        list[str] | None,
        typer.Option(help="Only jobs in this state; repeat for more. Default: all.", autocompletion=lambda: STATES),
    ] = None,
    limit: Annotated[int, typer.Option(help="How many jobs at most.", min=1)] = 50,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
) -> None:
    """List your jobs, the newest first."""
    with clear_errors("cli"):
        from unet_factory_cli import remote, remote_jobs

        remote_jobs.show_all(remote.Address.of(url, api_key), state or [], limit, as_json=as_json)


@app.command()
def show(
    job_id: JobId,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it has ended.")] = False,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
) -> None:
    """Show what is known of a job; exit code 1 if it failed or was cancelled."""
    with clear_errors("cli"):
        from unet_factory_cli import remote, remote_jobs

        remote_jobs.show(remote.Address.of(url, api_key), job_id, wait=wait, as_json=as_json)


@app.command()
def fetch(
    job_id: JobId,
    labelmap: Annotated[Path | None, typer.Option("--output", "-o", help="Where to save the label map.")] = None,
    coarse: Annotated[
        Path | None, typer.Option(help="Where to save the label map that comes first (progressive).")
    ] = None,
    preview: Annotated[
        Path | None, typer.Option(help="Where to save the picture (.png), if one was asked for.")
    ] = None,
    seg: Annotated[Path | None, typer.Option(help="Where to save the DICOM segmentation (.dcm).")] = None,
    report: Annotated[Path | None, typer.Option(help="Where to save the DICOM measurement report (.dcm).")] = None,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
) -> None:
    """Download results of a job."""
    with clear_errors("cli"):
        from unet_factory_cli import remote, remote_jobs

        wanted = {"labelmap": labelmap, "coarse_labelmap": coarse, "preview": preview, "seg": seg, "report": report}
        remote_jobs.fetch(remote.Address.of(url, api_key), job_id, wanted, as_json=as_json)


@app.command()
def delete(
    job_ids: Annotated[list[str], typer.Argument(metavar="JOB_ID...", help="Ids of jobs.")],
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
) -> None:
    """Cancel jobs that still run, and delete their scans and results at once."""
    with clear_errors("cli"):
        from unet_factory_cli import remote, remote_jobs

        remote_jobs.delete(remote.Address.of(url, api_key), job_ids, as_json=as_json)
