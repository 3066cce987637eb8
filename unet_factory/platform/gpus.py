"""What the GPUs of this machine do, read from their driver (NVML) whenever somebody looks, without torch."""

import logging
from collections.abc import Iterator
from typing import Any, NamedTuple

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

log = logging.getLogger(__name__)


class GpuState(NamedTuple):
    """``utilisation`` is the share of the driver's last sampling period in which a kernel ran; None: not told."""

    name: str
    used_bytes: int
    capacity_bytes: int
    utilisation: float | None


def gpus() -> list[GpuState]:
    """By the driver's numbering; empty without a GPU, its driver or the library."""
    try:
        import pynvml
    except ImportError:
        return []
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        return [_state(pynvml, index) for index in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError as error:
        log.warning("the GPUs cannot be read: %s", error)
        return []
    finally:
        pynvml.nvmlShutdown()


def _state(nvml: Any, index: int) -> GpuState:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    try:
        utilisation = nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100
    except nvml.NVMLError:  # a partition of a GPU (MIG) does not tell
        utilisation = None
    return GpuState(nvml.nvmlDeviceGetName(handle), memory.used, memory.total, utilisation)


class GpuFigures(Collector):
    """One series for each GPU, by number and name: of all processes on it, whoever started them."""

    def describe(self) -> list[GaugeMetricFamily]:
        labels = ["gpu", "name"]
        return [
            GaugeMetricFamily("unet_factory_gpu_memory_used_bytes", "GPU memory in use, by all", labels=labels),
            GaugeMetricFamily("unet_factory_gpu_memory_capacity_bytes", "GPU memory in all", labels=labels),
            GaugeMetricFamily("unet_factory_gpu_utilisation_ratio", "Share of time that a GPU works", labels=labels),
        ]

    def collect(self) -> Iterator[GaugeMetricFamily]:
        used, capacity, busy = self.describe()
        for index, gpu in enumerate(gpus()):
            of_gpu = [str(index), gpu.name]
            used.add_metric(of_gpu, gpu.used_bytes)
            capacity.add_metric(of_gpu, gpu.capacity_bytes)
            if gpu.utilisation is not None:
                busy.add_metric(of_gpu, gpu.utilisation)
        yield from (family for family in (used, capacity, busy) if family.samples)
