"""The parameters of a QIDO-RS search (PS3.18 section 8.3.4), each understood or refused."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from fastapi import Request
from pydicom.datadict import keyword_for_tag

from unet_factory.domain.errors import MalformedRequest
from unet_factory.domain.uids import read_uid, unpadded
from unet_factory_service.dicomweb.dicom_json import Attributes, text, texts
from unet_factory_service.dicomweb.results import INSTANCE_ATTRIBUTES, SERIES_ATTRIBUTES, STUDY_ATTRIBUTES

MAX_RESULTS = 1000

_LEVELS = {
    "studies": STUDY_ATTRIBUTES,
    "series": STUDY_ATTRIBUTES + SERIES_ATTRIBUTES,
    "instances": STUDY_ATTRIBUTES + SERIES_ATTRIBUTES + INSTANCE_ATTRIBUTES,
}
_SYNONYMS = {"ModalitiesInStudy": "Modality"}
# All that is indexed is returned anyway, matching is literal, and lists of values are always taken; `accept` is read
# with the header of that name (PS3.18 section 8.3.3.1).
_IGNORED = ("includefield", "accept")
_SWITCHES = ("fuzzymatching", "multiplevaluematching", "emptyvaluematching")
_EMPTY = '""'
_RANGE = re.compile(r"(\d*)-(\d*)")


@dataclass(frozen=True)
class Search:
    """``wanted`` maps keywords to what their values must be like, a list if asked for several times; ``empty`` lets
    ``""`` stand for no value."""

    limit: int = MAX_RESULTS
    offset: int = 0
    wanted: dict[str, str] = field(default_factory=dict)
    empty: bool = False

    @classmethod
    def of(cls, request: Request, level: str) -> "Search":
        """
        Raises:
            MalformedRequest: an attribute that cannot be searched for, or a parameter with a value it cannot have.
        """
        limit, offset = MAX_RESULTS, 0
        switches: dict[str, bool] = {}
        wanted: dict[str, str] = {}
        for name, value in request.query_params.multi_items():
            if name == "limit":
                limit = min(MAX_RESULTS, _count(name, value))
            elif name == "offset":
                offset = _count(name, value)
            elif name in _SWITCHES:
                switches[name] = _is_true(name, value)
            elif name not in _IGNORED:
                keyword = _keyword(name, level)
                wanted[keyword] = f"{wanted[keyword]},{value}" if keyword in wanted else value
        return cls(limit, offset, wanted, switches.get("emptyvaluematching", False))

    @property
    def study_uid(self) -> str | None:
        """The one study that can match."""
        return read_uid(self.wanted.get("StudyInstanceUID", ""))

    def holds(self, header: Attributes) -> bool:
        return all(self._matches(keyword, texts(header, keyword), value) for keyword, value in self.wanted.items())

    def _matches(self, keyword: str, found: list[str], wanted: str) -> bool:
        if self.empty and wanted == _EMPTY:
            return not any(found)
        return any(_matches(keyword, value, wanted) for value in found or [""])


def _keyword(name: str, level: str) -> str:
    keyword = keyword_for_tag(int(name, 16)) if re.fullmatch(r"[0-9A-Fa-f]{8}", name) else name
    keyword = _SYNONYMS.get(keyword, keyword)
    allowed = (*_LEVELS[level], "Modality", "SeriesInstanceUID")
    if keyword not in allowed:
        raise MalformedRequest(
            f"{name[:64]!r} cannot be searched for here; the attributes that can be are {', '.join(allowed)}",
            allowed=list(allowed),
        )
    return keyword


def _matches(keyword: str, found: str, wanted: str) -> bool:
    """Single value, list of values, wildcards, and ranges of dates and times (PS3.4 section C.2.2.2)."""
    span = _RANGE.fullmatch(wanted) if keyword.endswith(("Date", "Time")) else None
    if span and any(span.groups()):
        first, last = span.groups()
        return bool(found) and (not first or found >= first) and (not last or found <= last)
    forms, patterns = {found}, [_literal(value) for value in re.split(r"[,\\]", wanted)]
    if keyword.endswith("Name"):  # a person's: its groups match, too, and in any case
        forms = {form.casefold() for form in (found, *found.split("="))}
        patterns = [pattern.casefold() for pattern in patterns]
    if keyword.endswith("UID"):
        patterns = [unpadded(pattern) for pattern in patterns]
    return not wanted or any(fnmatchcase(form, pattern) for form in forms for pattern in patterns)


def _literal(value: str) -> str:
    """Only ``*`` and ``?`` have a meaning in DICOM."""
    return value.replace("[", "[[]")


def _is_true(name: str, value: str) -> bool:
    if value.lower() not in ("true", "false"):
        raise MalformedRequest(f"{name} must be true or false, not {value[:20]!r}")
    return value.lower() == "true"


def _count(name: str, value: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", value):
        raise MalformedRequest(f"{name} must be a whole number from 0 to 999999999")
    return int(value)


def values_of(headers: Iterable[Attributes], keyword: str) -> list[str]:
    """The different values of an attribute, sorted."""
    return sorted({text(header, keyword) for header in headers})
