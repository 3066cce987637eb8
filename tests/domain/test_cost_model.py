"""Prices as arithmetic: they follow what was measured, and more work never costs less."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unet_factory.domain.budget import Budget
from unet_factory.domain.cost_model import CostModel, Observation
from unet_factory.domain.manifest import Architecture, Label, Manifest, Pooling
from unet_factory.domain.quote import coarser_plans, finest_within, priced_plans
from unet_factory.domain.spacing import OutsidePolicy, SpacingGrid, SpacingMm, plan_spacing
from unet_factory.domain.workload import Workload, multiplications_per_voxel, workload_of

MANIFEST = Manifest(
    name="priced",
    architecture=Architecture(
        classes=3, channels=(16, 32, 48, 64), blocks=2, pooling=Pooling(anisotropy=2.0, coarsest_mm=16.0)
    ),
    grid=SpacingGrid.from_mm(0.05, [(0.5, 3.5)] * 3),
    labels=tuple(Label(value=value, name=str(value)) for value in range(3)),
    window=(64, 80, 64),
    licence="CC0-1.0",
)
SHAPES = st.tuples(*[st.integers(4, 160)] * 3)
SPACINGS = st.tuples(*[st.floats(0.3, 5.0)] * 3)
NANOSECONDS_PER_VOXEL, READING, FIXED_S = 900.0, 20e-9, 0.02


def measured(shape: tuple[int, int, int], mm: SpacingMm, slower: float = 1.0) -> Observation:
    """A job on a machine that keeps to a simple law exactly."""
    work = workload_of(MANIFEST, shape, plan_spacing(mm, MANIFEST.grid, OutsidePolicy.CLAMP))
    network_s = NANOSECONDS_PER_VOXEL * 1e-9 * work.windows * work.window_voxels
    return Observation(
        work=work,
        read_s=slower * (0.004 + READING * work.input_voxels),
        weights_s=slower * 0.03,
        infer_s=slower * (FIXED_S + network_s),
        write_s=slower * (0.002 + READING * work.input_voxels),
        peak_bytes=5_000_000 + 16 * work.input_voxels + 8 * int(work.activations),
    )


def history(count: int = 24, seed: int = 1, slower: float = 1.0) -> list[Observation]:
    random = np.random.default_rng(seed)
    seen = []
    for _ in range(count):
        r, a, s = random.integers(8, 150, size=3).tolist()
        mm: Any = tuple(random.uniform(0.4, 4.0, size=3).tolist())
        seen.append(measured((r, a, s), mm, slower))
    return seen


MODEL = CostModel.fit(history())
assert MODEL is not None


@given(SHAPES, SPACINGS)
def test_a_law_that_was_measured_is_predicted_elsewhere(shape: tuple[int, int, int], mm: SpacingMm) -> None:
    assert MODEL is not None
    truth = measured(shape, mm)
    price = MODEL.price(truth.work)
    assert price.seconds == pytest.approx(truth.seconds, rel=0.02)
    assert price.peak_bytes == pytest.approx(truth.peak_bytes, rel=0.02)
    assert price.seconds <= price.seconds_high
    assert price.peak_bytes <= price.peak_bytes_high


@given(SHAPES, SPACINGS, st.integers(0, 2), st.integers(1, 60))
def test_more_voxels_never_cost_less(shape: tuple[int, int, int], mm: SpacingMm, axis: int, more: int) -> None:
    assert MODEL is not None
    larger = tuple(extent + more * (index == axis) for index, extent in enumerate(shape))
    plan = plan_spacing(mm, MANIFEST.grid, OutsidePolicy.CLAMP)
    small = MODEL.price(workload_of(MANIFEST, shape, plan))
    large = MODEL.price(workload_of(MANIFEST, larger, plan))
    assert large.seconds >= small.seconds * (1 - 1e-9)
    assert large.peak_bytes >= small.peak_bytes


@given(st.lists(st.integers(0, 5_000_000), min_size=3, max_size=30), SHAPES, SPACINGS, st.integers(0, 2))
def test_a_tiny_model_is_never_said_to_need_less_than_the_scan(
    noise_bytes: list[int], shape: tuple[int, int, int], mm: SpacingMm, axis: int
) -> None:
    """Whatever a worker's memory does meanwhile; and more voxels still never cost less."""
    seen = [one.model_copy(update={"peak_bytes": peak}) for one, peak in zip(history(30), noise_bytes, strict=False)]
    model = CostModel.fit(seen[len(seen) // 2 :], seen[: len(seen) // 2])
    assert model is not None
    plan = plan_spacing(mm, MANIFEST.grid, OutsidePolicy.CLAMP)
    work = workload_of(MANIFEST, shape, plan)
    price = model.price(work)
    float_and_label = 4 * math.prod(shape) + math.prod(shape)
    assert price.peak_bytes_high >= price.peak_bytes >= float_and_label + 4 * work.working_voxels
    larger = tuple(extent + 8 * (index == axis) for index, extent in enumerate(shape))
    assert model.price(workload_of(MANIFEST, larger, plan)).peak_bytes >= price.peak_bytes
    budget = Budget(peak_bytes=float_and_label)
    assert finest_within(priced_plans(MANIFEST, shape, [plan], model), budget) is None


@given(SHAPES, SPACINGS)
def test_what_is_offered_is_worth_its_price(shape: tuple[int, int, int], mm: SpacingMm) -> None:
    """The scan's own spacing comes first; each coarser one saves time or memory against every finer one."""
    plans = coarser_plans(mm, MANIFEST.grid, OutsidePolicy.CLAMP)
    offered = priced_plans(MANIFEST, shape, plans, MODEL)
    assert offered[0].plan == plan_spacing(mm, MANIFEST.grid, OutsidePolicy.CLAMP)
    for index, coarser in enumerate(offered):
        for finer in offered[:index]:
            assert all(a >= b for a, b in zip(coarser.plan.working_mm, finer.plan.working_mm, strict=True))
            assert finer.price is not None
            assert coarser.price is not None
            cheaper = coarser.price.seconds < finer.price.seconds
            assert cheaper or coarser.price.peak_bytes < finer.price.peak_bytes


@given(SHAPES, SPACINGS, st.floats(0.01, 20), st.integers(10**6, 10**9))
def test_a_budget_is_kept_by_the_finest_spacing_that_can(
    shape: tuple[int, int, int], mm: SpacingMm, seconds: float, peak_bytes: int
) -> None:
    plans = coarser_plans(mm, MANIFEST.grid, OutsidePolicy.CLAMP)
    priced = priced_plans(MANIFEST, shape, plans, MODEL)
    budget = Budget(seconds, peak_bytes)
    chosen = finest_within(priced, budget)
    passed = priced if chosen is None else priced[: priced.index(chosen)]
    for one in passed:
        assert one.price is not None
        assert one.price.seconds_high > seconds or one.price.peak_bytes_high > peak_bytes
    if chosen is not None:
        assert chosen.price is not None
        assert chosen.price.seconds_high <= seconds
        assert chosen.price.peak_bytes_high <= peak_bytes


def test_a_machine_that_became_slower_is_noticed_within_ten_jobs() -> None:
    before, now = history(40), history(10, seed=2, slower=2.0)
    model = CostModel.fit(now + before)
    assert model is not None
    truth = measured((60, 60, 60), (1.0, 1.0, 1.0), slower=2.0)
    assert model.price(truth.work).seconds == pytest.approx(truth.seconds, rel=0.25)


def test_too_few_measurements_say_nothing() -> None:
    assert CostModel.fit(history(2)) is None
    assert CostModel.fit([]) is None


def test_time_that_has_passed_is_counted_as_it_was() -> None:
    assert MODEL is not None
    work = measured((40, 40, 40), (1.0, 1.0, 1.0)).work
    late = MODEL.price(work, read_s=10.0)
    assert late.seconds == pytest.approx(10.0 + MODEL.price(work, read_s=0.0).seconds)
    assert late.seconds_high - late.seconds < 10.0


def test_the_work_counts_what_the_network_really_multiplies() -> None:
    """Against PyTorch's own count, for isotropic and anisotropic pooling."""
    torch = pytest.importorskip("torch")
    from torch.utils.flop_counter import FlopCounterMode

    from unet_factory.model.unet import UNet

    for strides in (((2, 2, 2),) * 3, ((2, 2, 1), (2, 2, 1), (2, 2, 2))):
        unet = UNet(MANIFEST.architecture, strides).eval()
        volume = torch.zeros(1, 1, 16, 16, 16)
        with FlopCounterMode(display=False) as counter:  # with gradients: oneDNN alone is not counted
            unet(volume)
        ours = 2 * 16**3 * multiplications_per_voxel(MANIFEST.architecture, strides)
        assert ours == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_a_workload_is_counted_at_the_working_spacing() -> None:
    plan = plan_spacing((1.0, 1.0, 1.0), MANIFEST.grid, OutsidePolicy.CLAMP, (2.0, 2.0, 2.0))
    work = workload_of(MANIFEST, (100, 100, 100), plan)
    assert isinstance(work, Workload)
    assert (work.input_voxels, work.resampled, work.windows) == (10**6, True, 1)
    assert work.working_voxels == 56 * 56 * 56
    assert math.isclose(work.window_voxels, 56**3)
