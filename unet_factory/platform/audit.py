"""The audit trail: one line of JSON for each access to patient data, on a stream of its own, never patient data in it.

A line names the key, the job, what was done and how it ended. Lines are appended, to standard output or to a file
(which may be rotated underneath); several processes may write to the same file.
"""

import logging
import os
import sys
import time
from contextlib import suppress
from enum import StrEnum
from logging.handlers import WatchedFileHandler
from pathlib import Path

from unet_factory.domain.frozen import Frozen
from unet_factory.platform import metrics

STDOUT = "-"

_log = logging.getLogger(__name__)
_trail = logging.getLogger("unet_factory.audit_trail")


class Action(StrEnum):
    CREATE = "create"
    RECEIVE = "receive"
    READ_JOB = "read-job"
    READ_RESULT = "read-result"
    SEARCH = "search"
    DELETE = "delete"
    FETCH = "fetch"
    EXPORT = "export"
    LIST_EXPORTS = "list-exports"
    REPLAY_EXPORT = "replay-export"
    AUTHENTICATE = "authenticate"
    AUTHORISE = "authorise"


class AuditOutcome(StrEnum):
    OK = "ok"
    REFUSED = "refused"
    FAILED = "failed"


class AuditLine(Frozen):
    """``key`` and ``job`` are ids; ``client`` is a network address, ``destination`` a configured name.

    ``count`` is of refusals since the last line of the same client, which this line stands for.
    """

    time: str
    action: Action
    outcome: AuditOutcome
    key: str | None = None
    job: str | None = None
    request: str | None = None
    status: int | None = None
    client: str | None = None
    destination: str | None = None
    count: int | None = None


def open_trail(target: str) -> None:
    """Write lines to standard output (``-``) or to the end of a file, made for its owner's eyes only.

    Raises:
        OSError: the file cannot be written.
    """
    opened = _ToStdout(sys.stdout) if target == STDOUT else _ToFile(_private(Path(target)))
    close_trail()
    _trail.addHandler(opened)
    _trail.propagate = False
    _trail.setLevel(logging.INFO)


def close_trail() -> None:
    """Nothing is written from here on."""
    for handler in tuple(_trail.handlers):
        _trail.removeHandler(handler)
        with suppress(OSError):  # what could not be written before cannot be written now
            handler.close()


def record(
    action: Action,
    outcome: AuditOutcome,
    *,
    key: str | None = None,
    job: str | None = None,
    request: str | None = None,
    status: int | None = None,
    client: str | None = None,
    destination: str | None = None,
    count: int | None = None,
) -> None:
    """Append a line. One that cannot be written is counted and logged; it does not stop the work."""
    now = time.time()
    line = AuditLine(
        time=time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03d}Z",
        action=action,
        outcome=outcome,
        key=key,
        job=job,
        request=request,
        status=status,
        client=client,
        destination=destination,
        count=count,
    )
    _trail.info("%s", line.model_dump_json(exclude_none=True))


class _CountsFailures(logging.Handler):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802, ARG002 (logging's own names)
        metrics.AUDIT_FAILURES.inc()
        error = sys.exc_info()[0]
        _log.error("a line of the audit trail could not be written: %s", error.__name__ if error else "unknown")


class _ToStdout(_CountsFailures, logging.StreamHandler):  # type: ignore[type-arg]
    pass


class _ToFile(_CountsFailures, WatchedFileHandler):
    pass


def _private(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600))
    return path
