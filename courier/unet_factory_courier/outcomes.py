"""How an attempt can end other than well. Reasons are kept and shown: they name no patient, no UID and no URL."""

from http import HTTPStatus

from unet_factory.domain.errors import FactoryError

# What an operator, or time, can mend; any other refusal would be the same for the same bytes.
_PASSING_4XX = {401, 403, 404, 408, 409, 423, 425, 429}
_LONGEST_PAUSE_S = 3600.0


class TryAgain(Exception):
    """It may succeed later; ``after_s``: not before so many seconds."""

    def __init__(self, reason: str, after_s: float | None = None) -> None:
        super().__init__(reason)
        self.after_s = after_s


class GiveUp(Exception):
    """The same attempt would always end the same; ``error`` says it to the asker where a job fails of it."""

    def __init__(self, reason: str, error: FactoryError | None = None) -> None:
        super().__init__(reason)
        self.error = error


class NothingToDo(Exception):
    """The job ended without what this delivery is about."""


def check_status(status: int, retry_after: str | None = None) -> None:
    """
    Raises:
        TryAgain: 5xx, and those 4xx that an operator or time can mend.
        GiveUp: any other status but 2xx; redirects too, for nobody vouched for where they point.
    """
    if 200 <= status < 300:
        return
    reason = f"answered {status}{_phrase(status)}"
    if status >= 500 or status in _PASSING_4XX:
        raise TryAgain(reason, _seconds(retry_after))
    raise GiveUp(reason + (", which is not followed" if 300 <= status < 400 else ""))


def _phrase(status: int) -> str:
    try:
        return f" ({HTTPStatus(status).phrase})"
    except ValueError:
        return ""


def _seconds(retry_after: str | None) -> float | None:
    return min(float(retry_after), _LONGEST_PAUSE_S) if retry_after and retry_after.isdecimal() else None
