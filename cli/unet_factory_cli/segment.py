"""``unet-factory segment``: its options are made from the parameters of a segmentation."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from unet_factory.domain.errors import FactoryError
from unet_factory.domain.segmentation_parameters import PARAMETERS, SegmentationParameters, choices
from unet_factory_cli import remote
from unet_factory_cli.batch import Segmenter, segment_all
from unet_factory_cli.failures import FAILED, MISUSED, CommandFailed, clear_errors, say
from unet_factory_cli.options import DEFAULT_URL, ApiKey, AsJson, Conditions, Device, Local, Models, Url
from unet_factory_cli.outcome import Outcome, table_of, tell
from unet_factory_cli.scans import Task, batch_of, is_batch
from unet_factory_cli.statistics import check_statistics_file, write_statistics

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

EXIT_CODES = "Exit codes: 0, all scans are segmented; 1, at least one failed; 2, the command was called wrongly."

_SPELT_OTHERWISE = ("output", "conditions", "preview")  # the suffix of --output, --condition for each, --preview FILE


def _with_parameters(command: Callable[..., None]) -> Callable[..., None]:
    """The command with an option for each parameter in the place of its ``**given``."""
    own = inspect.signature(command)
    kept = [one for one in own.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
    options = [_option(name) for name in PARAMETERS if name not in _SPELT_OTHERWISE]
    command.__signature__ = own.replace(parameters=[*kept, *options])  # type: ignore[attr-defined]
    command.__annotations__ = {one.name: one.annotation for one in (*kept, *options)}
    return command


def _option(name: str) -> inspect.Parameter:
    field, flag = PARAMETERS[name], "--" + name.replace("_", "-")
    described = (field.description or "").replace("`", "")
    described = described[:1].upper() + described[1:] + "."
    if choices(name) and field.annotation is not bool:
        described += f" Default: {field.default}."
    kind: Any
    if field.annotation is bool:
        kind, default = Annotated[bool, typer.Option(flag, help=described)], False
    else:
        allowed = choices(name)
        option = typer.Option(flag, help=described, metavar="|".join(allowed) or None, autocompletion=lambda: allowed)
        kind, default = Annotated[str | None, option], None
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)


@dataclass(frozen=True)
class _Call:
    """The command line, apart from the parameters of the segmentation."""

    scans: list[Path]
    output: Path
    preview: Path | None
    report: Path | None
    statistics: Path | None
    overwrite: bool
    jobs: int
    as_json: bool

    @property
    def batch(self) -> bool:
        return is_batch(self.scans, self.output)

    def tasks(self) -> list[Task]:
        """
        Raises:
            CommandFailed: a name contradicts its format, a folder or a scan is not there, or names would collide.
        """
        for scan in self.scans:
            if not scan.exists():
                raise CommandFailed(f"there is no file {scan}", MISUSED)
        if self.statistics is not None:
            check_statistics_file(self.statistics)
        if self.batch:
            if self.report is not None:
                raise CommandFailed("--report is for a single scan", MISUSED)
            return batch_of(self.scans, self.output, self.preview)
        task = Task(self.scans[0] if self.scans else None, self.output, self.preview, self.report)
        task.check()
        return [task]


@app.command(epilog=EXIT_CODES)
@_with_parameters
def segment(
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="The label map: .nii.gz or .nrrd; the DICOM segmentation: .dcm; for several scans, a folder.",
        ),
    ],
    scans: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[SCAN]...",
            help="NIfTI, MHA or NRRD volumes; DICOM series as zip archives or folders; or folders of all these, whose "
            "tree the output mirrors. Leave it out with --pacs.",
        ),
    ] = None,
    local: Local = False,
    models: Models = Path("models"),
    device: Device = None,
    precision: Annotated[
        Literal["auto", "float32", "bfloat16"],
        typer.Option(envvar="UNET_FACTORY_PRECISION", help="Of --local; auto: whichever is faster here."),
    ] = "auto",
    preview: Annotated[
        Path | None,
        typer.Option(help="Also draw three planes with outlines and volumes: a .png; for several scans, a folder."),
    ] = None,
    statistics: Annotated[
        Path | None, typer.Option(help="Also write volumes, intensities, model and timings: .json or .csv.")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Also save the DICOM measurement report here (.dcm).")] = None,
    jobs: Annotated[int, typer.Option(help="How many scans at a time.", min=1)] = 1,
    overwrite: Annotated[bool, typer.Option(help="Segment scans again whose results are there.")] = False,
    as_json: AsJson = False,
    condition: Conditions = None,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    **given: str | bool | None,
) -> None:
    """Segment scans, each on its own grid; a DICOM series also as DICOM objects for its study."""
    with clear_errors("local" if local else "cli"):
        call = _Call(scans or [], output, preview, report, statistics, overwrite, jobs, as_json)
        if bool(call.scans) == (given["pacs"] is not None):
            raise CommandFailed("name either a scan or, with --pacs, a series in an archive", MISUSED)
        tasks = call.tasks()
        if local and (report is not None or not tasks[0].has_labelmap):
            raise CommandFailed("DICOM results are made by a gateway; leave out --local, or name a label map", MISUSED)
        parameters = _parameters(given, condition or [], tasks[0])
        measure = statistics is not None
        if local:
            from unet_factory_cli.segment_local import Computing, InProcess

            computing = Computing(device or "auto", precision)
            _run(call, tasks, InProcess(models, parameters, computing, measure=measure))
            return
        with remote.gateway(remote.Address.of(url, api_key)) as client:
            from unet_factory_cli.segment_remote import ByGateway

            _run(call, tasks, ByGateway(client, parameters, measure=measure))


def _run(call: _Call, tasks: Sequence[Task], segmenter: Segmenter) -> None:
    """
    Raises:
        CommandFailed: a scan could not be segmented.
    """
    done = {task for task in tasks if call.batch and not call.overwrite and task.is_done}
    outcomes = [Outcome(scan=str(task.scan), output=str(task.output), state="kept") for task in done]
    waiting = [task for task in tasks if task not in done]
    for task in waiting if call.batch else ():
        for path in filter(None, (task.output, task.preview)):
            path.parent.mkdir(parents=True, exist_ok=True)
    if call.as_json:
        _print_json(outcomes)
    for outcome in segment_all(segmenter, waiting, call.jobs):
        outcomes.append(outcome)
        if call.as_json:
            _print_json([outcome])
        elif not call.batch and outcome.error is None:
            tell(outcome)
    if call.statistics is not None:
        write_statistics(call.statistics, outcomes)
    _finish(call, outcomes)


def _finish(call: _Call, outcomes: Sequence[Outcome]) -> None:
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    if call.batch:
        from rich.console import Console

        Console(stderr=call.as_json).print(table_of(sorted(outcomes, key=lambda outcome: outcome.scan)))
        kept = sum(outcome.state == "kept" for outcome in outcomes)
        say(f"{len(outcomes) - kept - len(failed)} segmented, {kept} kept, {len(failed)} failed")
        if failed:
            raise CommandFailed(f"{len(failed)} of {len(outcomes)} scans could not be segmented", FAILED)
    for outcome in failed:
        assert outcome.error is not None
        detail = f": {outcome.error.detail}" if outcome.error.detail else ""
        raise CommandFailed(f"{outcome.error.title}{detail}", FAILED)


def _print_json(outcomes: Sequence[Outcome]) -> None:
    """One line each, as they come."""
    for outcome in outcomes:
        typer.echo(outcome.model_dump_json(exclude_none=True))


def _parameters(given: dict[str, str | bool | None], conditions: Sequence[str], task: Task) -> SegmentationParameters:
    """
    Raises:
        CommandFailed: a value that is not allowed.
    """
    texts = task.implied | {name: _text(value) for name, value in given.items() if value not in (None, False)}
    if task.preview is not None:
        texts["preview"] = "true"
    if conditions:
        texts["conditions"] = ",".join(conditions)
    try:
        return SegmentationParameters.from_texts(texts)
    except FactoryError as error:
        raise CommandFailed(str(error), MISUSED) from error


def _text(value: str | bool | None) -> str:
    return "true" if value is True else str(value)
