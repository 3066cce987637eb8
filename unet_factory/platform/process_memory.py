"""How much memory this process has needed at its peak, as the operating system counts it."""

import ctypes
import resource
import sys
from contextlib import suppress
from pathlib import Path

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # see proc(5)


def reset_peak_bytes() -> int:
    """Resident bytes now; from here on the kernel records a new peak, where it can."""
    _return_freed_memory()
    try:
        _CLEAR.write_text(_RESET_PEAK)
        return _status_bytes("VmRSS")
    except OSError:
        return peak_bytes()


def peak_bytes() -> int:
    """The most bytes that were resident at once since the last reset, or since the start."""
    try:
        return _status_bytes("VmHWM")
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def _return_freed_memory() -> None:
    """What earlier work freed goes back to the system (glibc), so that it does not hide what the next needs."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _status_bytes(field: str) -> int:
    for line in _STATUS.read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise OSError(f"{_STATUS} has no {field}")
