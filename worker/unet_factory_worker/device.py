"""The memory that a job needed on the worker's device. Only ever imported in the child."""

import torch

from unet_factory.platform import metrics
from unet_factory.platform.process_memory import peak_bytes, reset_peak_bytes


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
        return peak

    def _host_peak(self) -> int:
        return max(0, peak_bytes() - self._start)
