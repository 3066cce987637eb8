"""The text fields of a segmentation request, each understood or refused."""

from enum import StrEnum
from typing import Self, TypeVar

from pydantic import BaseModel, ConfigDict

from unet_factory.errors import MalformedRequest
from unet_factory.jobs import LabelMapFormat
from unet_factory.spacing import OutsidePolicy, SpacingMm, parse_spacing
from unet_factory_service.refusals import NotSupported

_Choice = TypeVar("_Choice", bound=StrEnum)


class _Output(StrEnum):
    NIFTI = "nii.gz"
    NRRD = "nrrd"


class SegmentationForm(BaseModel):
    """What the caller wants done with the scan; spacings in mm (R, A, S)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str | None = None
    spacing: SpacingMm | None = None
    working_spacing: SpacingMm | None = None
    outside: OutsidePolicy = OutsidePolicy.CLAMP
    output: LabelMapFormat = "nii.gz"

    @classmethod
    def of(cls, fields: dict[str, str]) -> Self:
        """
        Raises:
            NotSupported: a field that this service does not have.
            SpacingInvalid: a spacing that is none.
            MalformedRequest: a value that is not among the allowed ones.
        """
        _check_names(fields.keys() - cls.model_fields.keys(), sorted(cls.model_fields))
        return cls(
            model=fields.get("model"),
            spacing=_spacing(fields.get("spacing")),
            working_spacing=_spacing(fields.get("working_spacing")),
            outside=_choice("outside", fields.get("outside", cls.model_fields["outside"].default), OutsidePolicy),
            output=_choice("output", fields.get("output", cls.model_fields["output"].default), _Output).value,
        )


def _check_names(unknown: set[str], supported: list[str]) -> None:
    if unknown:
        names = sorted(name[:100] for name in unknown)
        raise NotSupported(
            f"not supported: {', '.join(names)}; the form may have file, {', '.join(supported)}",
            unsupported=names,
            supported=["file", *supported],
        )


def _spacing(text: str | None) -> SpacingMm | None:
    return None if text is None else parse_spacing(text)


def _choice(name: str, text: str, choices: type[_Choice]) -> _Choice:
    try:
        return choices(text)
    except ValueError:
        allowed = [choice.value for choice in choices]
        raise MalformedRequest(
            f"{name} is {text[:100]!r}, must be one of {', '.join(allowed)}", allowed=allowed
        ) from None
