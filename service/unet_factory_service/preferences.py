"""How long a caller is willing to wait: the ``Prefer`` header (RFC 7240)."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

_WAIT = re.compile(r"wait\s*=\s*\"?(\d{1,9})\"?", re.IGNORECASE)


@dataclass(frozen=True)
class Preference:
    """``applied`` is what ``Preference-Applied`` says: None when nothing was preferred."""

    wait_s: float
    applied: str | None = None

    @property
    def headers(self) -> dict[str, str]:
        return {"Preference-Applied": self.applied} if self.applied else {}


def parse_prefer(values: Iterable[str], *, default_s: float, max_s: float) -> Preference:
    """``wait=N`` up to ``max_s``; ``respond-async`` alone means not at all. What is not understood is ignored."""
    preferences = [part.strip() for value in values for part in re.split(r"[,;]", value)]
    for preference in preferences:
        if found := _WAIT.fullmatch(preference):
            wait_s = min(int(found[1]), int(max_s))
            return Preference(wait_s, f"wait={wait_s}")
    if any(preference.lower() == "respond-async" for preference in preferences):
        return Preference(0.0, "respond-async")
    return Preference(min(default_s, max_s))
