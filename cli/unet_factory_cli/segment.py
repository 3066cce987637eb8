"""``unet-factory segment``: its options are made from the parameters of a segmentation."""

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from unet_factory.domain.errors import FactoryError
from unet_factory.domain.segmentation_parameters import PARAMETERS, SegmentationParameters, choices
from unet_factory_cli import remote
from unet_factory_cli.failures import MISUSED, CommandFailed, clear_errors
from unet_factory_cli.options import DEFAULT_URL, ApiKey, Conditions, Url

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

_SPELT_OTHERWISE = ("output", "conditions")  # the suffix of --output, and --condition for each


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
        metavar = "|".join(choices(name)) or None
        kind, default = Annotated[str | None, typer.Option(flag, help=described, metavar=metavar)], None
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)


@app.command()
@_with_parameters
def segment(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The label map: .nii.gz or .nrrd; the DICOM segmentation: .dcm.")
    ],
    scan: Annotated[
        Path | None,
        typer.Argument(
            help="A NIfTI, MHA or NRRD volume, or a DICOM series: zip archive or folder. Leave it out with --pacs."
        ),
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Also save the DICOM measurement report here (.dcm).")] = None,
    condition: Conditions = None,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    **given: str | bool | None,
) -> None:
    """Segment a scan, on its own grid; a DICOM series also as DICOM objects for its study."""
    with clear_errors("cli"):
        if (scan is None) == (given["pacs"] is None):
            raise CommandFailed("name either a scan or, with --pacs, a series in an archive", MISUSED)
        if scan is not None and not scan.exists():
            raise CommandFailed(f"there is no file {scan}", MISUSED)
        results = remote.Results(output, report)
        results.check()
        parameters = _parameters(given, condition or [], results)
        remote.segment(remote.Address.of(url, api_key), scan, results, parameters)


def _parameters(
    given: dict[str, str | bool | None], conditions: Sequence[str], results: remote.Results
) -> SegmentationParameters:
    """
    Raises:
        CommandFailed: a value that is not allowed.
    """
    texts = results.implied | {name: _text(value) for name, value in given.items() if value not in (None, False)}
    if conditions:
        texts["conditions"] = ",".join(conditions)
    try:
        return SegmentationParameters.from_texts(texts)
    except FactoryError as error:
        raise CommandFailed(str(error), MISUSED) from error


def _text(value: str | bool | None) -> str:
    return "true" if value is True else str(value)
