"""Child processes that cannot outlive us: a parent-death signal each (Linux), one watchdog over all their groups."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from types import TracebackType
from typing import Self

_PR_SET_PDEATHSIG = 1


class Watchdog:
    """A small process that reads our process groups from a pipe and kills them when the pipe breaks.

    It also ends the children of our children, which no parent-death signal reaches, and works on every system.
    """

    def __init__(self) -> None:
        command = [sys.executable, "-S", "-E", "-c", _WATCH]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, process_group=0, text=True, bufsize=1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Whatever is still registered is killed."""
        self._process.communicate()

    def guard(self, process: subprocess.Popen[bytes]) -> None:
        self._tell(f"+{process.pid}")

    def release(self, process: subprocess.Popen[bytes]) -> None:
        """The group has ended; its number may be given to somebody else."""
        self._tell(f"-{process.pid}")

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(f"{line}\n")


_WATCH = """
import os, signal, sys
for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(name, signal.SIG_IGN)
groups = set()
for line in sys.stdin:
    group = int(line[1:])
    groups.add(group) if line[0] == '+' else groups.discard(group)
for group in groups:
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        pass
"""


def die_with_parent() -> None:
    """In the child: have the kernel end it when the parent's thread that started it ends (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def end_group(process: subprocess.Popen[bytes], patience_s: float) -> bool:
    """Ask the leader of a process group to end, then kill what is left of the group; True when asking was enough."""
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(patience_s)
        gentle = True
    except subprocess.TimeoutExpired:
        gentle = False
    kill_group(process)
    return gentle


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill whatever the group still holds, such as a dead worker's pool process. Its leader is then reaped."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
