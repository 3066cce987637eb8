"""What happened, as Jepsen writes it down: how operations were invoked and how they ended, one JSON object a line.

An operation ends ``ok`` (it took place), ``fail`` (it did not) or ``info`` (nobody knows: the connection broke). Faults
and what receivers got are single events. The checker reads nothing else.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from unet_factory.domain.frozen import Frozen

EventType = Literal["invoke", "ok", "fail", "info"]


class Event(Frozen):
    """``time_s`` since the start of the run; ``operation`` is the same for an invocation and its end, else 0."""

    time_s: float
    process: str
    type: EventType
    f: str
    operation: int = 0
    value: dict[str, Any] = Field(default_factory=dict)


@dataclass
class Operation:
    """One that runs; without a word of its end it counts as ``info``."""

    history: "History"
    process: str
    f: str
    number: int
    _ended: bool = field(default=False)

    def ok(self, **value: Any) -> None:
        self._end("ok", value)

    def fail(self, **value: Any) -> None:
        self._end("fail", value)

    def info(self, **value: Any) -> None:
        self._end("info", value)

    def _end(self, kind: EventType, value: dict[str, Any]) -> None:
        if not self._ended:
            self._ended = True
            self.history.write(self.process, kind, self.f, self.number, value)


class History:
    """Written through to its file, so that a run that is killed leaves what it saw. Safe to share between threads."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", buffering=1)
        self._lock = threading.Lock()
        self._began = time.monotonic()
        self._operations = 0

    @property
    def now_s(self) -> float:
        return time.monotonic() - self._began

    @contextmanager
    def operation(self, process: str, f: str, **value: Any) -> Iterator[Operation]:
        with self._lock:
            self._operations += 1
            operation = Operation(self, process, f, self._operations)
        self.write(process, "invoke", f, operation.number, value)
        try:
            yield operation
        finally:
            operation.info()

    def note(self, process: str, f: str, *, type: EventType = "info", **value: Any) -> None:  # noqa: A002 (Jepsen's)
        """A single event."""
        self.write(process, type, f, 0, value)

    def write(self, process: str, type: EventType, f: str, operation: int, value: dict[str, Any]) -> None:  # noqa: A002
        with self._lock:
            now = round(self.now_s, 4)
            event = Event(time_s=now, process=process, type=type, f=f, operation=operation, value=value)
            self._file.write(event.model_dump_json() + "\n")

    def close(self) -> None:
        self._file.close()


def read_history(path: Path) -> list[Event]:
    with path.open() as lines:
        return [Event.model_validate_json(line) for line in lines]
