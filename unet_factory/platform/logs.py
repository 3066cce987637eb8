"""Logging for machines or people: one line per event, never a file name, a header or a voxel in it."""

import json
import logging
import math
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal, TextIO

log = logging.getLogger(__name__)

_fields: ContextVar[dict[str, str]] = ContextVar("log_fields")


def configure_logging(style: Literal["plain", "json"]) -> None:
    """Send everything from INFO on to stderr, in place of what was set up before, and Python's warnings too.

    Of errors and warnings that come with a text of a library's making only kind and place are told.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if style == "json" else PlainFormatter(_PLAIN))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    warnings.showwarning = _log_warning


@contextmanager
def log_fields(**fields: str) -> Iterator[None]:
    """Give every line that is logged within the block these fields, empty ones excepted, besides those it has already.

    Called with the names that the audit trail uses: ``request`` and ``job``.
    """
    token = _fields.set(_fields.get({}) | {name: value for name, value in fields.items() if value})
    try:
        yield
    finally:
        _fields.reset(token)


def add_log_field(name: str, value: str) -> None:
    """Add a field to the innermost :func:`log_fields` block; outside of any block it does nothing.

    Works from the threads that a request's work is handed to as well.
    """
    _fields.get({})[name] = value


def log_field(name: str) -> str:
    """The value that lines logged now have for a field; empty if they have none."""
    return _fields.get({}).get(name, "")


def safe_traceback(error: BaseException) -> str:
    """Where an error came from and its type, without its message: a library's message may quote the scan's header."""
    return "".join(traceback.format_tb(error.__traceback__)) + type(error).__qualname__


class PlainFormatter(logging.Formatter):
    """Fields behind the logger's name; tracebacks without the errors' messages."""

    def format(self, record: logging.LogRecord) -> str:
        record.fields = "".join(f" {name}={value}" for name, value in _fields.get({}).items())
        return super().format(record)

    def formatException(self, ei: Any) -> str:  # noqa: N802 (logging's own name)
        return safe_traceback(ei[1])


class JsonFormatter(PlainFormatter):
    """One JSON object per line: time (UTC), level, logger, fields, message, and the traceback where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": record.process,
            **_fields.get({}),
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


class OncePerMinute(logging.Filter):
    """Lets a message through once in a while, with how often it was left out before; for what peers can provoke."""

    def __init__(self, every_s: float = 60.0) -> None:
        super().__init__()
        self._every_s = every_s
        self._seen: dict[str, tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage().partition("\n")[0]
        since, left_out = self._seen.get(text, (-math.inf, 0))
        if record.created - since < self._every_s:
            self._seen[text] = since, left_out + 1
            return False
        self._seen = {known: value for known, value in self._seen.items() if record.created - value[0] < self._every_s}
        self._seen[text] = record.created, 0
        if left_out:
            record.msg, record.args = f"{record.getMessage()} ({left_out} times more since the last line)", None
        return True


def _log_warning(
    message: Warning | str,  # noqa: ARG001 (may quote a header)
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,  # noqa: ARG001
    line: str | None = None,  # noqa: ARG001
) -> None:
    log.warning("a %s at %s:%d", category.__name__, filename, lineno)


_PLAIN = "%(asctime)s %(levelname)s %(name)s%(fields)s: %(message)s"
