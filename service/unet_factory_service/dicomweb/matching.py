"""The parameters of a QIDO-RS search (PS3.18 section 8.3.4), each understood or refused."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from fastapi import Request
from pydicom import Dataset
from pydicom.datadict import keyword_for_tag

from unet_factory.domain.errors import MalformedRequest
from unet_factory_service.dicomweb.results import INSTANCE_ATTRIBUTES, SERIES_ATTRIBUTES, STUDY_ATTRIBUTES

MAX_RESULTS = 1000

_LEVELS = {
    "studies": STUDY_ATTRIBUTES,
    "series": STUDY_ATTRIBUTES + SERIES_ATTRIBUTES,
    "instances": STUDY_ATTRIBUTES + SERIES_ATTRIBUTES + INSTANCE_ATTRIBUTES,
}
_SYNONYMS = {"ModalitiesInStudy": "Modality"}
_ACCEPTED = ("includefield", "fuzzymatching")  # all that is indexed is returned anyway; matching is literal
_RANGE = re.compile(r"(\d*)-(\d*)")


@dataclass(frozen=True)
class Search:
    """``wanted`` maps keywords to what their values must be like."""

    limit: int = MAX_RESULTS
    offset: int = 0
    wanted: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, request: Request, level: str) -> "Search":
        """
        Raises:
            MalformedRequest: an attribute that cannot be searched for, or a number that is none.
        """
        limit, offset, wanted = MAX_RESULTS, 0, {}
        for name, value in request.query_params.multi_items():
            if name == "limit":
                limit = min(MAX_RESULTS, _count(name, value))
            elif name == "offset":
                offset = _count(name, value)
            elif name not in _ACCEPTED:
                wanted[_keyword(name, level)] = value
        return cls(limit, offset, wanted)

    def holds(self, header: Dataset) -> bool:
        return all(_matches(keyword, str(header.get(keyword) or ""), value) for keyword, value in self.wanted.items())


def _keyword(name: str, level: str) -> str:
    keyword = keyword_for_tag(int(name, 16)) if re.fullmatch(r"[0-9A-Fa-f]{8}", name) else name
    keyword = _SYNONYMS.get(keyword, keyword)
    allowed = (*_LEVELS[level], "Modality", "SeriesInstanceUID")
    if keyword not in allowed:
        raise MalformedRequest(
            f"{name[:64]!r} cannot be searched for here; possible are {', '.join(allowed)}", allowed=list(allowed)
        )
    return keyword


def _matches(keyword: str, found: str, wanted: str) -> bool:
    """Single value, list of values, wildcards, and ranges of dates and times (PS3.4 section C.2.2.2)."""
    span = _RANGE.fullmatch(wanted) if keyword.endswith(("Date", "Time")) else None
    if span and any(span.groups()):
        first, last = span.groups()
        return bool(found) and (not first or found >= first) and (not last or found <= last)
    return not wanted or any(fnmatchcase(found, _literal(value)) for value in re.split(r"[,\\]", wanted))


def _literal(value: str) -> str:
    """Only ``*`` and ``?`` have a meaning in DICOM."""
    return value.replace("[", "[[]")


def _count(name: str, value: str) -> int:
    if not re.fullmatch(r"\d{1,9}", value):
        raise MalformedRequest(f"{name} must be a number, not negative")
    return int(value)


def values_of(headers: Iterable[Dataset], keyword: str) -> list[str]:
    """The different values of an attribute, sorted."""
    return sorted({str(header.get(keyword) or "") for header in headers})
