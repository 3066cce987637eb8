"""Errors as RFC 9457 problems, as stored with a failed job; the status is the HTTP edge's to choose."""

from unet_factory.domain.errors import FactoryError
from unet_factory.domain.jobs import Problem

TYPE_PREFIX = "urn:unet-factory:problem:"


UNEXPECTED = Problem(
    type=f"{TYPE_PREFIX}internal-error",
    title="An unexpected error",
    detail="an unexpected error ended the work; the operator can find its cause in the worker's log",
)


def problem_of(error: FactoryError) -> Problem:
    """The problem that says what was wrong and what is allowed."""
    return Problem(type=TYPE_PREFIX + error.slug, title=error.title, detail=str(error), details=error.details)
