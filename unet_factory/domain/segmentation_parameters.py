"""What a caller may ask of a segmentation: the one list of its parameters.

The HTTP form, the query of a ``multipart/related`` body, the operator's routing rules, the Python client, the options
of ``unet-factory segment``, the OpenAPI text and what the worker is told are all made from these fields. A new
parameter is one field here, and the code that heeds it.

A parameter has one text form, for forms, queries and options: parts of a list are joined by commas, conditions are
``NAME=NUMBER``, booleans ``true`` or ``false``.
"""

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from unet_factory.domain.budget import Budget
from unet_factory.domain.conditions import conditions_text, parse_conditions
from unet_factory.domain.errors import MalformedRequest
from unet_factory.domain.frozen import Frozen
from unet_factory.domain.image_choice import ImageChoice, parse_echo_time, parse_image_type
from unet_factory.domain.numbers import parse_number, parse_whole_number
from unet_factory.domain.plausibility import ImplausiblePolicy
from unet_factory.domain.spacing import OutsidePolicy, SpacingMm, parse_spacing, validate_spacing
from unet_factory.domain.uids import read_uid

LabelMapFormat = Literal["nii.gz", "nrrd"]
SegmentationType = Literal["binary", "labelmap"]

SERIES_REFERENCE = ("pacs", "study_uid", "series_uid")
NEVER_IN_A_URL = frozenset({"callback_url", "send_to", *SERIES_REFERENCE})
"""What may say something of a patient or hold a secret: URLs end up in logs."""

_QUOTED_CHARACTERS = 100


def _from_text(parse: Callable[[str], Any]) -> BeforeValidator:
    """Read the value where it comes as text."""
    return BeforeValidator(lambda value: parse(value) if isinstance(value, str) else value)


def _names(text: str) -> tuple[str, ...]:
    """None in an empty text."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _each_once(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


def _uid(value: str) -> str:
    uid = read_uid(value)
    if uid is None:
        raise PydanticCustomError("uid", "must be a DICOM UID: numbers separated by dots, at most 64 characters")
    return uid


def _text_schema(*examples: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "examples": list(examples)})


Spacing = Annotated[SpacingMm, _from_text(parse_spacing), AfterValidator(validate_spacing), _text_schema("1,0.5,0.5")]
Conditions = Annotated[dict[str, float], _from_text(parse_conditions), _text_schema("inversion_time_ms=900")]
Names = Annotated[tuple[str, ...], _from_text(_names), AfterValidator(_each_once), _text_schema("main,archive")]
Uid = Annotated[str, AfterValidator(_uid)]
ImageType = Annotated[tuple[str, ...], _from_text(parse_image_type), _text_schema("M", "ORIGINAL,PRIMARY,M")]
BudgetSeconds = Annotated[float, _from_text(parse_number), Field(gt=0, allow_inf_nan=False)]
BudgetBytes = Annotated[int, _from_text(parse_whole_number), Field(gt=0)]
EchoTime = Annotated[float, _from_text(parse_echo_time), Field(gt=0, allow_inf_nan=False)]


class SegmentationOptions(Frozen):
    """How to segment a scan: the parameters that go from the caller to the worker unchanged."""

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True)

    spacing_ras_mm: Spacing | None = Field(
        default=None,
        alias="spacing",
        description="voxel spacing in mm, three numbers in the order R,A,S; replaces the one in the scan's header",
    )
    working_spacing_mm: Spacing | None = Field(
        default=None,
        alias="working_spacing",
        description="spacing to segment at, in mm, in the order R,A,S; the scan's own by default",
    )
    budget_seconds: BudgetSeconds | None = Field(
        default=None,
        description="seconds of work that the job may take once a worker has it: the finest working spacing that is"
        " predicted to keep this is chosen, and a budget that none would keep is refused",
    )
    budget_bytes: BudgetBytes | None = Field(
        default=None, description="memory in bytes that the job may take at its peak; otherwise as `budget_seconds`"
    )
    outside: OutsidePolicy = Field(
        default=OutsidePolicy.CLAMP, description="what to do with a spacing outside the model's trained range"
    )
    implausible: ImplausiblePolicy = Field(
        default=ImplausiblePolicy.NOTE,
        description="what to do with a field of view or a volume far from what the model was trained on: note it, also"
        " withhold the results from archives, or reject the scan",
    )
    mirroring: bool = Field(
        default=False,
        description="segment the scan's mirror images too, along the model's `mirrored_axes`, and take the mean: a"
        " little more accurate, at two, four or eight times the work; refused where the model has no such axes",
    )
    output: LabelMapFormat = Field(default="nii.gz", description="file format of the label map")
    seg_type: SegmentationType = Field(
        default="binary",
        description="type of the DICOM segmentation, for a DICOM series only; older viewers know only binary",
    )

    image_type: ImageType | None = Field(
        default=None,
        description="for a DICOM series with several kinds of image at each place: values of the ImageType (or"
        " FrameType, or ComplexImageComponent) of those to segment, separated by commas",
    )
    echo_time_ms: EchoTime | None = Field(
        default=None,
        description="for a DICOM series with several echoes: the echo time in ms of the images to segment; the"
        " shortest by default",
    )

    progressive: bool = Field(
        default=False,
        description="first make a label map at a coarse spacing, within a fifth of the job's time, to be fetched as"
        " `coarse-labelmap` while the job goes on",
    )
    preview: bool = Field(
        default=False,
        description="also draw `preview.png`: three planes through what was found, with the outlines of the labels",
    )

    @property
    def budget(self) -> Budget:
        """What the job may cost at most."""
        return Budget(self.budget_seconds, self.budget_bytes)

    @property
    def image_choice(self) -> ImageChoice:
        """The images to take from a DICOM series."""
        return ImageChoice(self.image_type or (), self.echo_time_ms)

    def options(self) -> dict[str, Any]:
        """Just these fields, by their names, for another model that has them too."""
        return {name: getattr(self, name) for name in SegmentationOptions.model_fields}


class SegmentationParameters(SegmentationOptions):
    """All that a caller may ask for; ``model_fields_set`` tells what was given from what is a default.

    Raises:
        SpacingInvalid: a spacing is not three positive numbers of at most 1000 mm.
        ConditionInvalid: the text of the conditions is not a list of ``NAME=NUMBER``.
        MalformedRequest: the reference to a series in an archive is incomplete.
        ValidationError: another value is not allowed.
    """

    model: str | None = Field(default=None, description="name of the model; the gateway's default model by default")
    conditions: Conditions = Field(
        default={},
        description="for a model that has conditions: NAME=NUMBER, separated by commas; those left out have the"
        " model's defaults",
    )
    send_to: Names | None = Field(
        default=None,
        description="configured archives that receive the DICOM results: names, separated by commas. By default the"
        " results of a series fetched from an archive go to that archive's `results_to`",
    )
    callback_url: str | None = Field(
        default=None,
        description="where to send a signed webhook (Standard Webhooks) once the job is final; the operator decides"
        " which hosts are allowed",
        json_schema_extra={"format": "uri"},
    )
    pacs: str | None = Field(
        default=None, description="configured archive to fetch the series from, in place of uploading a scan"
    )
    study_uid: Uid | None = Field(default=None, description="Study Instance UID, together with `pacs`")
    series_uid: Uid | None = Field(
        default=None,
        description="Series Instance UID: with `pacs`, of the series to fetch; with an upload, of the one to take"
        " from a zip archive that holds several",
    )

    @classmethod
    def from_texts(cls, texts: Mapping[str, str]) -> Self:
        """Read parameters, by their public names, from their text form.

        Raises:
            SpacingInvalid, ConditionInvalid: as the constructor.
            MalformedRequest: a value or a name that is not allowed. UIDs and other free text are not quoted.
        """
        try:
            return cls.model_validate(dict(texts), by_name=False)
        except ValidationError as error:
            raise _malformed(error) from None

    def to_texts(self) -> dict[str, str]:
        """What was given, in the text form that :meth:`from_texts` reads."""
        given = self.model_dump(mode="json", by_alias=True, exclude_unset=True)
        return {name: _text(value) for name, value in given.items() if value not in (None, {})}

    @model_validator(mode="after")
    def _reference_is_complete(self) -> Self:
        """Without an archive, ``series_uid`` chooses among the series of an upload."""
        given = [name for name in SERIES_REFERENCE if getattr(self, name) is not None]
        if given not in ([], ["series_uid"], list(SERIES_REFERENCE)):
            missing = [name for name in SERIES_REFERENCE if name not in given]
            raise MalformedRequest(
                f"a series in an archive needs {', '.join(SERIES_REFERENCE)}; missing: {', '.join(missing)}"
            )
        return self


PARAMETERS: Mapping[str, FieldInfo] = {
    field.alias or name: field for name, field in SegmentationParameters.model_fields.items()
}
"""Every parameter by its public name."""


def choices(name: str) -> tuple[str, ...]:
    """The texts that a parameter may have; empty where it is not one of a few."""
    annotation = PARAMETERS[name].annotation
    if annotation is bool:
        return ("true", "false")
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return tuple(str(member.value) for member in annotation)
    return tuple(value for value in get_args(annotation) if isinstance(value, str))


def _malformed(error: ValidationError) -> MalformedRequest:
    """The first fault; only a choice is quoted, since UIDs and other texts may say something of a patient."""
    fault = error.errors(include_url=False)[0]
    name = ".".join(str(part) for part in fault["loc"])
    allowed = choices(name) if name in PARAMETERS else ()
    if not allowed:
        return MalformedRequest(f"{name} {fault['msg']}")
    value = str(fault["input"])[:_QUOTED_CHARACTERS]
    return MalformedRequest(f"{name} is {value!r}, allowed are {', '.join(allowed)}", allowed=list(allowed))


def _text(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case dict():
            return conditions_text(value)
        case list():
            return ",".join(str(part) for part in value)
        case _:
            return str(value)
