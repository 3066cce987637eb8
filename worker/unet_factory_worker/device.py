"""The device that a worker computes on, and the memory that a job needed there.

Only ever imported in the child: CUDA does not survive a fork.
"""

import logging
import platform
from contextlib import suppress
from pathlib import Path

import torch

from unet_factory.platform import metrics
from unet_factory.platform.process_memory import peak_bytes, reset_peak_bytes

log = logging.getLogger(__name__)

_CPU_INFO = Path("/proc/cpuinfo")


def pick_device(wanted: str) -> torch.device:
    """``auto`` takes a GPU when there is one.

    Raises:
        RuntimeError: a named device is not there; nothing else is taken in its place.
    """
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(wanted)
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise RuntimeError(f"device {wanted} was requested, but there is no usable GPU")
        device = torch.device("cuda", device.index or 0)
        torch.cuda.set_device(device)
    log.info("computing on %s", describe(device))
    return device


def describe(device: torch.device) -> str:
    """``cpu`` or, for example, ``cuda:0 (NVIDIA H200)``."""
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def processor(device: torch.device) -> str:
    """The device's make, whichever of a host's devices it is: ``cuda (NVIDIA H200)``, ``cpu (AMD EPYC)``."""
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    with suppress(OSError):
        for line in _CPU_INFO.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return f"{device.type} ({value.strip()})"
    return f"{device.type} ({platform.processor() or platform.machine()})"


def release_memory(device: torch.device) -> None:
    """Hand memory that no tensor uses any more back to the device."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, or what it was raised from, says that host or device memory ran out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    if isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in _OUT_OF_MEMORY_SIGNS):
        return True
    return error.__cause__ is not None and is_out_of_memory(error.__cause__)


_OUT_OF_MEMORY_SIGNS = ("can't allocate memory", "not enough memory", "out of memory", "status_alloc_failed")


class PeakMemory:
    """Starts to watch when made."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        self._start = reset_peak_bytes()

    def peak(self) -> int:
        """Bytes since the start, of the device that computes."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        return self._host_peak()

    def read(self) -> int:
        """As :meth:`peak`; also shown in the metrics."""
        peak = self.peak()
        metrics.JOB_MEMORY_PEAK_BYTES.set(self._host_peak())
        if self._device.type != "cuda":
            return peak
        metrics.GPU_MEMORY_PEAK_BYTES.labels(str(self._device)).set(peak)
        metrics.GPU_MEMORY_USED_BYTES.labels(str(self._device)).set(torch.cuda.memory_reserved(self._device))
        return peak

    def _host_peak(self) -> int:
        return max(0, peak_bytes() - self._start)
