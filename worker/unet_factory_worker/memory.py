"""How much memory a job needed at its peak: device memory on a GPU, memory that it added to its process elsewhere."""

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

    def read(self) -> int:
        """Bytes since the start; also shown in the metrics."""
        host = max(0, peak_bytes() - self._start)
        metrics.JOB_MEMORY_PEAK_BYTES.set(host)
        if self._device.type != "cuda":
            return host
        peak = torch.cuda.max_memory_allocated(self._device)
        metrics.GPU_MEMORY_PEAK_BYTES.labels(str(self._device)).set(peak)
        metrics.GPU_MEMORY_USED_BYTES.labels(str(self._device)).set(torch.cuda.memory_reserved(self._device))
        return peak
