"""Trying again: only what the gateway did not accept (no connection, 429, 503), as long as it asks or backing off."""

from typing import TypedDict

import httpx

from unet_factory_client.problems import FactoryProblem

RETRY_FOR_S = 45.0

_BUSY = (httpx.codes.TOO_MANY_REQUESTS, httpx.codes.SERVICE_UNAVAILABLE)
_LONGEST_PAUSE_S = 30.0


class Persistence(TypedDict):
    """Arguments of ``stamina.RetryingCaller`` and ``stamina.AsyncRetryingCaller``."""

    attempts: int | None
    timeout: float | None
    wait_jitter: float


def persistence(retry_for_s: float) -> Persistence:
    """For requests that are safe to repeat; 0 for those that are sent once."""
    return Persistence(attempts=None if retry_for_s > 0 else 1, timeout=retry_for_s or None, wait_jitter=0.2)


def raise_for_problem(response: httpx.Response) -> None:
    """Raise :class:`FactoryProblem` for an answer with an error status; its body must have been read."""
    if response.is_error:
        raise FactoryProblem.of_response(response)


def worth_retrying(error: Exception) -> bool | float:
    """Whether to send a request again, or the seconds to wait before."""
    if isinstance(error, FactoryProblem):
        if error.status not in _BUSY:
            return False
        return True if error.retry_after_s is None else min(error.retry_after_s, _LONGEST_PAUSE_S)
    return isinstance(error, httpx.TransportError)
