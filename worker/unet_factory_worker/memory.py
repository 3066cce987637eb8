"""How much memory a job needed at its peak: device memory on a GPU, memory that it added to its process elsewhere."""

import ctypes
import resource
import sys
from contextlib import suppress
from pathlib import Path

import torch

from unet_factory import metrics

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # see proc(5)


class PeakMemory:
    """Starts to watch when made."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        self._start = _reset_host_peak()

    def read(self) -> int:
        """Bytes since the start; also shown in the metrics."""
        host = max(0, _host_peak() - self._start)
        metrics.JOB_MEMORY_PEAK_BYTES.set(host)
        if self._device.type != "cuda":
            return host
        peak = torch.cuda.max_memory_allocated(self._device)
        metrics.GPU_MEMORY_PEAK_BYTES.labels(str(self._device)).set(peak)
        metrics.GPU_MEMORY_USED_BYTES.labels(str(self._device)).set(torch.cuda.memory_reserved(self._device))
        return peak


def _reset_host_peak() -> int:
    """Resident bytes now; from here on the kernel records a new peak, where it can."""
    _return_freed_memory()
    try:
        _CLEAR.write_text(_RESET_PEAK)
        return _status_bytes("VmRSS")
    except OSError:
        return _host_peak()


def _return_freed_memory() -> None:
    """What earlier jobs freed goes back to the system (glibc), so that it does not hide what the next one needs."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _host_peak() -> int:
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
