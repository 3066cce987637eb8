"""The ways in which a job is tried when memory runs out: their order, and what each changes."""

import pytest
import torch

from unet_factory.domain.errors import OutOfMemory
from unet_factory.domain.jobs import PolicyReport
from unet_factory.domain.quote import coarser_plans
from unet_factory.domain.spacing import OutsidePolicy, SpacingGrid
from unet_factory.model.out_of_memory import Way, first_that_fits, ways

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
NATIVE, *COARSER = coarser_plans((1.0, 1.0, 1.0), SpacingGrid.from_mm(0.05, [(0.5, 3.5)] * 3), OutsidePolicy.CLAMP)


def steps(device: torch.device, coarser: bool, cpu_allowed: bool) -> list[str]:
    tried = list(ways(NATIVE, COARSER if coarser else (), device, cpu_allowed=cpu_allowed))
    assert tried[0] == Way(NATIVE, device)
    return [way.step for way in tried[1:]]


def test_windows_come_first_then_the_spacing_then_the_cpu() -> None:
    assert steps(CPU, coarser=False, cpu_allowed=True) == ["windows"]
    assert steps(GPU, coarser=False, cpu_allowed=False) == ["windows"]
    assert steps(GPU, coarser=False, cpu_allowed=True) == ["windows", "cpu"]
    every = steps(GPU, coarser=True, cpu_allowed=True)
    assert every == ["windows", *["spacing"] * (len(every) - 2), "cpu"]
    assert 2 < len(every) < 10  # voxels at least halve from one spacing to the next


def test_the_first_way_that_fits_is_taken_and_told() -> None:
    moved: list[str] = []

    def run(way: Way) -> str:
        if way.device == GPU:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return "labels"

    way, labels = first_that_fits(ways(NATIVE, COARSER, GPU, cpu_allowed=True), run, lambda way: moved.append(way.step))
    assert (labels, way.device, way.plan) == ("labels", CPU, NATIVE)
    assert moved[-1] == "cpu"
    policy = way.told(PolicyReport(outside=OutsidePolicy.CLAMP))
    assert (policy.reduced_memory, policy.coarser_for_memory, policy.moved_to_cpu) == (True, False, True)


def test_only_exhausted_memory_is_tried_again() -> None:
    def exhausted(way: Way) -> None:
        raise MemoryError

    def broken(way: Way) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(OutOfMemory, match="cuda:0 and of cpu"):
        first_that_fits(ways(NATIVE, (), GPU, cpu_allowed=True), exhausted, lambda _: None)
    with pytest.raises(RuntimeError, match="mat1"):
        first_that_fits(ways(NATIVE, (), GPU, cpu_allowed=True), broken, lambda _: pytest.fail("tried again"))
