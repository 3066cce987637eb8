"""The commands that talk to a running gateway."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple, Self, cast

import httpx
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from unet_factory.domain.conditions import parse_conditions
from unet_factory.domain.errors import ConditionInvalid, SpacingInvalid
from unet_factory.domain.jobs import Job
from unet_factory.domain.plausibility import Finding
from unet_factory.domain.segmentation_parameters import LabelMapFormat, SegmentationParameters
from unet_factory.domain.spacing import OutsidePolicy, SpacingMm, parse_spacing
from unet_factory_cli.failures import MISUSED, CommandFailed, say
from unet_factory_cli.own_key import own_key
from unet_factory_client import FactoryClient, FactoryProblem, ModelDescription

OUTPUT_FORMATS: tuple[LabelMapFormat, ...] = ("nii.gz", "nrrd")
DTYPES = ("float32", "float16")
_DICOM = ".dcm"
_UNAUTHORIZED = 401


class Results(NamedTuple):
    """Where results go: a label map or, as .dcm, the DICOM segmentation; and the DICOM report."""

    output: Path
    report: Path | None

    @property
    def has_labelmap(self) -> bool:
        return self.output.suffix != _DICOM

    @property
    def preview(self) -> Path:
        """Beside the output: scan.nii.gz has scan.preview.png."""
        return self.output.with_name(f"{self.output.name.partition('.')[0]}.preview.png")

    @property
    def implied(self) -> dict[str, str]:
        """The parameters that follow from the files: naming a type has a scan without DICOM results refused at once."""
        wanted: dict[str, str] = {"output": _format_of(self.output)} if self.has_labelmap else {}
        if self.report is not None or not self.has_labelmap:
            wanted["seg_type"] = "binary"
        return wanted

    def check(self) -> None:
        """
        Raises:
            CommandFailed: a suffix that is not supported, or a folder that does not exist.
        """
        if self.report is not None and self.report.suffix != _DICOM:
            raise CommandFailed(f"{self.report} must end with {_DICOM}", MISUSED)
        for path in filter(None, (self.output, self.report)):
            _check_folder(path)

    def save(self, client: FactoryClient, job: Job) -> None:
        if self.report is not None:
            client.report(job.id, self.report)
        (client.labelmap if self.has_labelmap else client.seg)(job.id, self.output)


def segment(at: "Address", scan: Path | None, results: Results, parameters: SegmentationParameters) -> None:
    """Upload, show progress, download. An interrupted command takes its job back."""
    with gateway(at) as client:
        job = client.submit(scan, parameters)
        doubts = job.implausible
        _warn(job, doubts)  # in time to interrupt it
        try:
            job = _watch(client, job)
        except KeyboardInterrupt:
            client.delete(job.id)
            raise CommandFailed("interrupted; the job was cancelled") from None
        results.save(client, job)
        if parameters.preview:
            say(f"preview: {client.preview(job.id, results.preview)}")
    _report(job, results.output)
    _warn(job, [finding for finding in job.implausible if finding not in doubts])


def unet(
    at: "Address",
    spacing: str,
    output: Path,
    dtype: str,
    conditions: Sequence[str],
    model: str | None,
    outside: str | None,
) -> None:
    if dtype not in DTYPES:
        raise CommandFailed(f"--dtype is {dtype!r}, allowed are {', '.join(DTYPES)}", MISUSED)
    wanted, known, policy = spacing_option(spacing), _conditions(conditions), policy_option(outside)
    assert wanted is not None
    _check_folder(output)
    with gateway(at) as client:
        network = client.unet(
            wanted,
            model=model,
            dtype=cast(Literal["float32", "float16"], dtype),
            conditions=known,
            outside=policy,
        )
    network.save(output)
    snapped = ",".join(f"{mm:g}" for mm in network.snapped_mm)
    made_for = network.headers.get("x-conditions")
    also = f" and {made_for}" if made_for else ""
    say(f"{output}: {len(network.blob)} bytes, made for {snapped} mm (R,A,S){also}, ETag {network.etag}")


def models(at: "Address") -> None:
    with gateway(at) as client:
        found = client.models()
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
        hint = "; pass --api-key or set UNET_FACTORY_API_KEY" if problem.status == _UNAUTHORIZED else ""
        raise CommandFailed(f"{problem}{hint}") from problem
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise CommandFailed(
            f"no gateway answers at {at.url} ({error or type(error).__name__});"
            " start one with `unet-factory serve`, or name another with --url"
        ) from error


def _watch(client: FactoryClient, job: Job) -> Job:
    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task(job.state, total=1.0)

        def show(job: Job) -> None:
            progress.update(bar, completed=job.progress, description=job.state)

        ended = client.wait(job.id, show)
        show(ended)
    return ended


def _report(job: Job, output: Path) -> None:
    volumes = ", ".join(f"{name} {ml:.2f} ml" for name, ml in (job.volumes_ml or {}).items())
    working = job.spacing.working
    at = "" if working is None else " at " + " x ".join(f"{mm:g}" for mm in working) + " mm (R,A,S)"
    say(f"{output}: segmented{at} in {sum(job.timings_s.values()):.2f} s; {volumes}")
    if job.conditions:
        say("made for " + ", ".join(f"{name}={value:g}" for name, value in job.conditions.items()))
    for note in job.notes:
        say(f"note: {note}")
    if job.policy.out_of_range:
        say(f"note: outside the trained range of {job.model}; the policy was {job.policy.outside}")


def _warn(job: Job, findings: Sequence[Finding]) -> None:
    for finding in findings:
        say(f"WARNING: unlike the scans that {job.model} was trained on; do not rely on the result: {finding}")


def _cells(model: ModelDescription) -> list[str]:
    return [
        model.name,
        ", ".join(label.name for label in model.labels if label.value),
        " x ".join(f"{low:g}-{high:g}" for low, high in model.trained_range_mm),
        ", ".join(f"{known.name} {known.minimum:g}-{known.maximum:g}" for known in model.conditions),
        model.licence,
        model.digest[:12],
    ]


def _format_of(output: Path) -> LabelMapFormat:
    for output_format in OUTPUT_FORMATS:
        if output.name.endswith(f".{output_format}"):
            return output_format
    raise CommandFailed(
        f"{output} must end with {', '.join('.' + known for known in OUTPUT_FORMATS)} or {_DICOM}", MISUSED
    )


def _check_folder(output: Path) -> None:
    if not output.parent.is_dir():
        raise CommandFailed(f"there is no folder {output.parent} for {output.name}", MISUSED)


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
