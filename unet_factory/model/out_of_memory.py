"""What is tried when memory runs out: smaller windows, then a coarser spacing where allowed, then the CPU."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import torch

from unet_factory.domain.errors import OutOfMemory
from unet_factory.domain.jobs import PolicyReport
from unet_factory.domain.manifest import Manifest
from unet_factory.domain.precision import Precision
from unet_factory.domain.spacing import SpacingPlan
from unet_factory.model.device import is_out_of_memory
from unet_factory.model.inference import Execution

Result = TypeVar("Result")

_HALF = 0.5


class Way(NamedTuple):
    """One way to do the work."""

    plan: SpacingPlan
    device: torch.device
    smaller_windows: bool = False
    coarser: bool = False
    moved_to_cpu: bool = False

    @property
    def step(self) -> str:
        """What sets it apart from the way before, as the metrics name it."""
        return "cpu" if self.moved_to_cpu else "spacing" if self.coarser else "windows"

    def execution(self, manifest: Manifest, divisors: tuple[int, ...], precision: Precision) -> Execution:
        """How a network with these ``divisors`` runs; ``precision`` was chosen for the first way's device."""
        execution = Execution(
            self.device,
            manifest.window_at(self.plan.snapped),
            divisors,
            "float32" if self.moved_to_cpu else precision,
            overlap=manifest.window_overlap,
        )
        return execution.reduced() if self.smaller_windows else execution

    def told(self, policy: PolicyReport) -> PolicyReport:
        """The policy with what this way changed."""
        changes = {
            "reduced_memory": self.smaller_windows,
            "coarser_for_memory": self.coarser,
            "moved_to_cpu": self.moved_to_cpu,
            "resampled": self.plan.resampled,
        }
        return policy.model_copy(update=changes)


def ways(
    plan: SpacingPlan, coarser: Sequence[SpacingPlan], device: torch.device, *, cpu_allowed: bool
) -> Iterator[Way]:
    """The wanted way first, then those that need ever less of the device's memory."""
    yield Way(plan, device)
    yield Way(plan, device, smaller_windows=True)
    voxels = _voxels_per_mm3(plan)
    for each in coarser:
        if _voxels_per_mm3(each) <= _HALF * voxels:
            voxels = _voxels_per_mm3(each)
            yield Way(each, device, smaller_windows=True, coarser=True)
    if cpu_allowed and device.type != "cpu":
        yield Way(plan, torch.device("cpu"), smaller_windows=True, moved_to_cpu=True)


def first_that_fits(
    possible: Iterator[Way], run: Callable[[Way], Result], before_another: Callable[[Way], None]
) -> tuple[Way, Result]:
    """The first way whose ``run`` does not exhaust the memory, with its result.

    Args:
        before_another: called with each way but the first, before it is tried; frees what it can.

    Raises:
        OutOfMemory: none does.
    """
    tried: list[Way] = []
    for way in possible:
        if tried:
            before_another(way)  # out of the handler, where the error's traceback no longer holds the tensors
        tried.append(way)
        try:
            return way, run(way)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
    devices = " and of ".join(dict.fromkeys(str(way.device) for way in tried))
    raise OutOfMemory(f"even with smaller windows the job does not fit into the memory of {devices}")


def _voxels_per_mm3(plan: SpacingPlan) -> float:
    r_mm, a_mm, s_mm = plan.working_mm
    return 1 / (r_mm * a_mm * s_mm)
