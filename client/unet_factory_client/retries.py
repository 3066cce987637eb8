"""Trying again: only what the gateway did not accept (no connection, 429, 503), as long as it asks or backing off."""

from collections.abc import Callable

import httpx

from unet_factory_client.problems import FactoryProblem

RETRY_FOR_S = 45.0

_BUSY = (httpx.codes.TOO_MANY_REQUESTS, httpx.codes.SERVICE_UNAVAILABLE)
_LONGEST_PAUSE_S = 30.0


def retried(send: Callable[[], httpx.Response], retry_for_s: float) -> httpx.Response:
    """The answer to a request that is safe to repeat.

    Raises:
        FactoryProblem: the gateway refused it, or was still busy in the end.
        httpx.TransportError: the gateway could not be reached.
    """
    import stamina

    attempts = None if retry_for_s > 0 else 1
    for attempt in stamina.retry_context(
        _worth_retrying, attempts=attempts, timeout=retry_for_s or None, wait_jitter=0.2
    ):
        with attempt:
            response = send()
            raise_for_problem(response)
            return response
    raise AssertionError("the last attempt raises")


def raise_for_problem(response: httpx.Response) -> None:
    """Raise :class:`FactoryProblem` for an answer with an error status; its body must have been read."""
    if response.is_error:
        raise FactoryProblem.of_response(response)


def _worth_retrying(error: Exception) -> bool | float:
    if isinstance(error, FactoryProblem):
        if error.status not in _BUSY:
            return False
        return True if error.retry_after_s is None else min(error.retry_after_s, _LONGEST_PAUSE_S)
    return isinstance(error, httpx.TransportError)
