"""What this process does with memory that it has freed, and how much it has needed at its peak, as the operating system
counts it.
"""

import ctypes
import gc
import resource
import sys
from contextlib import suppress
from pathlib import Path

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # see proc(5)

# see mallopt(3)
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_LARGEST_INT = 2**31 - 1


def keep_freed_memory() -> None:
    """From here on, memory that is freed stays with the process until :func:`return_freed_memory`.

    glibc maps each large block anew and unmaps it when it is freed, so a network would get fresh pages, which the
    kernel must clear, for the result of every layer: a quarter of its time in float32. Without glibc nothing changes.
    """
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, _LARGEST_INT)


def keep_out_of_collections() -> None:
    """What is there now, once all is imported and loaded, is for ever: the garbage collector need not go through it."""
    gc.collect()
    gc.freeze()


def return_freed_memory() -> None:
    """What has been freed goes back to the operating system, where the process runs on glibc."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def reset_peak_bytes() -> int:
    """Resident bytes now; from here on the kernel records a new peak, where it can.

    Freed memory is returned first, so that what earlier work left does not hide what the next needs.
    """
    return_freed_memory()
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


def _status_bytes(field: str) -> int:
    for line in _STATUS.read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise OSError(f"{_STATUS} has no {field}")
