"""What the steps of a run have cost so far, and which share that is of what they may cost."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from lightning_fabric import Fabric

from unet_factory_training.batch import Batch
from unet_factory_training.config import OptimisationConfig


@dataclass(frozen=True)
class Spent:
    """``voxels`` of all crops that were trained on, by all processes.

    ``seconds``: wall time of the steps and of waiting for their batches, without validation and saving, the mean over
    processes. ``cpu_seconds``: CPU time of the same in this process, so without that of ``loader_workers``.
    """

    voxels: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0

    def share(self, iteration: int, limits: OptimisationConfig) -> float:
        """Of the limit that is closest; 1 or more when the run is to end."""
        shares = [iteration / limits.iterations]
        if limits.max_voxels is not None:
            shares.append(self.voxels / limits.max_voxels)
        if limits.max_seconds is not None:
            shares.append(self.seconds / limits.max_seconds)
        return max(shares)


class Meter:
    """Adds up what steps cost, equally on all processes, so that they end together; not what comes before ``start``."""

    def __init__(self, fabric: Fabric, spent: Spent) -> None:
        self.fabric, self.spent = fabric, spent
        self.start()

    def start(self) -> Self:
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        return self

    def count(self, batches: Sequence[Batch]) -> Spent:
        """After a step on this process's share of its batches."""
        voxels = sum(view.images.numel() for batch in batches for view in batch.views)
        seconds, cpu_seconds = time.perf_counter() - self._wall, time.process_time() - self._cpu
        if (processes := self.fabric.world_size) > 1:
            own = torch.tensor([float(voxels), seconds], dtype=torch.float64, device=self.fabric.device)
            mean = self.fabric.all_reduce(own, reduce_op="mean")
            assert isinstance(mean, torch.Tensor)
            voxels, seconds = round(float(mean[0]) * processes), float(mean[1])
        spent = self.spent
        self.spent = Spent(spent.voxels + voxels, spent.seconds + seconds, spent.cpu_seconds + cpu_seconds)
        self.start()
        return self.spent
