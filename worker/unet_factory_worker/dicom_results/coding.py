"""A model's labels as DICOM codes: category (CID 7150), type (CID 7151) and region (CID 4) of a segmented property."""

from pydicom.sr.coding import Code

from unet_factory.domain.manifest import CodeTriple, Label

_ANATOMICAL = Code("123037004", "SCT", "Anatomical Structure")  # as a category, CID 7150
_UNSPECIFIED = Code("91723000", "SCT", "Anatomical Structure")  # as a type: what a label without a code surely is


def category_of(label: Label) -> Code:
    return _code(label.category) or _ANATOMICAL


def type_of(label: Label) -> Code:
    return _code(label.code) or _UNSPECIFIED


def modifier_of(label: Label) -> Code | None:
    return _code(label.modifier)


def region_of(label: Label) -> Code | None:
    """Where it lies: a structure that is anatomy itself needs none."""
    return _code(label.region)


def site_of(label: Label) -> tuple[Code, Code | None] | None:
    """The finding site with its topographical modifier; None where nothing is known of it."""
    region = region_of(label)
    if region is not None:
        return region, None
    return (type_of(label), modifier_of(label)) if category_of(label) == _ANATOMICAL else None


def _code(triple: CodeTriple | None) -> Code | None:
    if triple is None:
        return None
    scheme, value, meaning = triple
    return Code(value, scheme, meaning)
