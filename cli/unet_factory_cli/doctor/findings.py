"""What one check found."""

from collections.abc import Callable, Iterator
from enum import StrEnum

from unet_factory.domain.frozen import Frozen


class Verdict(StrEnum):
    """``failed``: something that users need does not work. ``warning``: it works now, but not safely."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


class Finding(Frozen):
    """``advice`` says what to do; empty where nothing needs doing."""

    part: str
    verdict: Verdict
    found: str
    advice: str = ""


Findings = Iterator[Finding]
Check = Callable[[], Findings]


def ok(part: str, found: str) -> Finding:
    return Finding(part=part, verdict=Verdict.OK, found=found)


def warning(part: str, found: str, advice: str) -> Finding:
    return Finding(part=part, verdict=Verdict.WARNING, found=found, advice=advice)


def failed(part: str, found: str, advice: str) -> Finding:
    return Finding(part=part, verdict=Verdict.FAILED, found=found, advice=advice)
