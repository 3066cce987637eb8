"""A worker's parent and child watch each other, because a process can hang or be stopped without dying.

Each beats from a thread of its own, which no work holds up. Whoever is silent for too long is killed by the other: the
parent's pool then starts a new child; a parent's end is seen by its supervisor.
"""

import logging
import mmap
import os
import signal
import threading
import time
from contextlib import suppress

log = logging.getLogger(__name__)

BEAT_S = 0.5


class Pulse:
    """The beats of one process, in memory that it shares with the processes it forks."""

    def __init__(self) -> None:
        self._shared = memoryview(mmap.mmap(-1, 16)).cast("Q")  # beats, process id

    def begin(self) -> None:
        """From now on it is this process's."""
        self._shared[1] = os.getpid()

    def beat(self) -> None:
        self._shared[0] += 1

    def end(self) -> None:
        """Nobody's, until the next process begins."""
        self._shared[1] = 0

    @property
    def beats(self) -> int:
        return self._shared[0]

    @property
    def pid(self) -> int:
        """0: nobody's."""
        return self._shared[1]


class MutualWatch(threading.Thread):
    """Beats for this process, and kills the other one, whose name is for the log, after ``silence_s`` without a beat.

    Silence is counted in this thread's own looks rather than by a clock: when both processes were stopped and go on,
    neither blames the other.
    """

    def __init__(self, own: Pulse, other: Pulse, name_of_other: str, silence_s: float) -> None:
        super().__init__(name="watch", daemon=True)
        self._own, self._other, self._name_of_other, self._silence_s = own, other, name_of_other, silence_s
        self._looks_without_beat = 0
        own.begin()

    @property
    def other_silent_s(self) -> float:
        return self._looks_without_beat * BEAT_S

    def run(self) -> None:
        before = None
        while True:
            self._own.beat()
            seen = self._other.pid, self._other.beats
            self._looks_without_beat = self._looks_without_beat + 1 if seen == before else 0
            before = seen
            if self._other.pid and self.other_silent_s > self._silence_s:
                self._kill(self._other.pid)
                self._other.end()
            time.sleep(BEAT_S)

    def _kill(self, pid: int) -> None:
        with suppress(ProcessLookupError):
            if os.getpgid(pid) == os.getpgrp():  # else it ended, and the number has been given to somebody else
                log.error(
                    "the worker's %s gave no sign of life for %g s and is killed", self._name_of_other, self._silence_s
                )
                os.kill(pid, signal.SIGKILL)
