"""The text fields of a segmentation request, each understood or refused."""

import re
from enum import StrEnum
from typing import Self, TypeVar

from pydantic import BaseModel, ConfigDict

from unet_factory.domain.conditions import parse_conditions
from unet_factory.domain.errors import MalformedRequest
from unet_factory.domain.jobs import LabelMapFormat, PacsSeries, SegmentationType
from unet_factory.domain.spacing import OutsidePolicy, SpacingMm, parse_spacing
from unet_factory_service.errors import NotSupported

_Choice = TypeVar("_Choice", bound=StrEnum)

_REFERENCE = ("pacs", "study_uid", "series_uid")
_UID = re.compile(r"(?=.{1,64}\Z)(0|[1-9]\d*)(\.(0|[1-9]\d*))*\Z", re.ASCII)  # DICOM PS3.5 section 9.1
_FIELDS = (
    *("model", "spacing", "working_spacing", "conditions", "outside", "output", "seg_type"),
    *("callback_url", "send_to", *_REFERENCE),
)


class _Output(StrEnum):
    NIFTI = "nii.gz"
    NRRD = "nrrd"


class _SegType(StrEnum):
    BINARY = "binary"
    LABELMAP = "labelmap"


class SegmentationForm(BaseModel):
    """What the caller wants done with the scan; spacings in mm (R, A, S)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str | None = None
    spacing: SpacingMm | None = None
    working_spacing: SpacingMm | None = None
    conditions: dict[str, float] = {}
    outside: OutsidePolicy = OutsidePolicy.CLAMP
    output: LabelMapFormat = "nii.gz"
    seg_type: SegmentationType | None = None
    series: PacsSeries | None = None
    series_uid: str | None = None
    send_to: tuple[str, ...] | None = None
    callback_url: str | None = None

    @classmethod
    def of(cls, fields: dict[str, str]) -> Self:
        """
        Raises:
            NotSupported: a field that this service does not have.
            SpacingInvalid: a spacing that is none.
            ConditionInvalid: conditions that are no list of names and numbers.
            MalformedRequest: a value that is not among the allowed ones.
        """
        _check_names(fields.keys() - set(_FIELDS), sorted(_FIELDS))
        return cls(
            model=fields.get("model"),
            spacing=_spacing(fields.get("spacing")),
            working_spacing=_spacing(fields.get("working_spacing")),
            conditions=parse_conditions(fields["conditions"]) if "conditions" in fields else {},
            outside=_choice("outside", fields.get("outside", cls.model_fields["outside"].default), OutsidePolicy),
            output=_choice("output", fields.get("output", cls.model_fields["output"].default), _Output).value,
            seg_type=_seg_type(fields.get("seg_type")),
            series=_series(fields),
            series_uid=_series_uid(fields),
            send_to=_names(fields.get("send_to")),
            callback_url=fields.get("callback_url"),
        )


def _check_names(unknown: set[str], supported: list[str]) -> None:
    if unknown:
        names = sorted(name[:100] for name in unknown)
        raise NotSupported(
            f"not supported: {', '.join(names)}; the form may have file, {', '.join(supported)}",
            unsupported=names,
            supported=["file", *supported],
        )


def _series(fields: dict[str, str]) -> PacsSeries | None:
    """The reference into an archive; without one, ``series_uid`` chooses among the series of an upload."""
    given = [name for name in _REFERENCE if name in fields]
    if given in ([], ["series_uid"]):
        return None
    if len(given) < len(_REFERENCE):
        missing = sorted(set(_REFERENCE) - set(given))
        raise MalformedRequest(f"a series in an archive needs {', '.join(_REFERENCE)}; missing: {', '.join(missing)}")
    return PacsSeries(pacs=fields["pacs"], study_uid=_uid(fields, "study_uid"), series_uid=_uid(fields, "series_uid"))


def _series_uid(fields: dict[str, str]) -> str | None:
    return _uid(fields, "series_uid") if "series_uid" in fields else None


def _uid(fields: dict[str, str], name: str) -> str:
    """What is wrong with a UID is told without it."""
    if not _UID.match(fields[name]):
        raise MalformedRequest(f"{name} is no DICOM UID: numbers with dots between them, at most 64 characters")
    return fields[name]


def _names(text: str | None) -> tuple[str, ...] | None:
    """Names with commas between them; none in an empty text."""
    return None if text is None else tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def _spacing(text: str | None) -> SpacingMm | None:
    return None if text is None else parse_spacing(text)


def _seg_type(text: str | None) -> SegmentationType | None:
    return None if text is None else _choice("seg_type", text, _SegType).value


def _choice(name: str, text: str, choices: type[_Choice]) -> _Choice:
    try:
        return choices(text)
    except ValueError:
        allowed = [choice.value for choice in choices]
        raise MalformedRequest(
            f"{name} is {text[:100]!r}, must be one of {', '.join(allowed)}", allowed=allowed
        ) from None
