"""The device that a process computes on, and what it says when its memory runs out.

Never imported before a fork: CUDA does not survive one.
"""

import logging
import platform
from contextlib import suppress
from pathlib import Path

import torch

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
