"""Problems reported by the gateway (RFC 9457), as an exception."""

from typing import Any, Self

import httpx

from unet_factory.domain.jobs import Job

_FALLBACK_TYPE = "about:blank"
_NO_GATEWAY = "it does not say why, as a gateway does; is this the URL of one?"


class FactoryProblem(Exception):
    """A request that was refused, or a job that did not succeed.

    ``type`` is a stable URI to branch on; ``status`` is the HTTP status, None for a job that failed after it was
    accepted; ``details`` holds the offending and the allowed values.
    """

    def __init__(
        self,
        *,
        type: str,  # noqa: A002 (the name that RFC 9457 gives it)
        title: str,
        detail: str,
        status: int | None = None,
        details: dict[str, Any] | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(f"{title}: {detail}" if detail else title)
        self.type, self.title, self.detail, self.status = type, title, detail, status
        self.details = details or {}
        self.retry_after_s = retry_after_s

    @classmethod
    def of_response(cls, response: httpx.Response) -> Self:
        """From an answer with an error status, whose body was read; also where something in between answered."""
        try:
            body = response.json()
        except ValueError:
            body = None
        if not isinstance(body, dict):
            body = {"detail": response.text.strip()[:500]}
        return cls(
            type=str(body.get("type", _FALLBACK_TYPE)),
            title=str(body.get("title") or f"the gateway answered {response.status_code} {response.reason_phrase}"),
            detail=str(body.get("detail") or ("" if "title" in body else _NO_GATEWAY)),
            status=response.status_code,
            details={key: value for key, value in body.items() if key not in _MEMBERS},
            retry_after_s=_seconds(response.headers.get("Retry-After")),
        )

    @classmethod
    def of_job(cls, job: Job) -> Self:
        """From a job that ended without a result."""
        if job.error is None:
            return cls(type=_FALLBACK_TYPE, title=f"The job was {job.state}", detail=f"job {job.id}")
        error = job.error
        return cls(type=error.type, title=error.title, detail=error.detail, details=error.details)


_MEMBERS = ("type", "title", "detail", "status")


def _seconds(text: str | None) -> float | None:
    return float(text) if text is not None and text.strip().isdigit() else None
