"""What a scan would cost at its own spacing and at coarser ones, and the finest of them that a budget allows."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pydantic import Field

from unet_factory.domain.budget import Budget
from unet_factory.domain.cost_model import CostModel, Price
from unet_factory.domain.dice_by_spacing import DiceBySpacing, ExpectedDice
from unet_factory.domain.errors import BudgetTooSmall
from unet_factory.domain.frozen import Frozen
from unet_factory.domain.manifest import Manifest
from unet_factory.domain.spacing import (
    OutsidePolicy,
    SpacingGrid,
    SpacingMm,
    SpacingPlan,
    plan_spacing,
    resampled_shape,
)
from unet_factory.domain.workload import Workload, workload_of

COARSENING_STEP = 1.1
FIRST_LOOK_SHARE = 0.15
"""How much of a job's time the first label map of a progressive one may take; a fifth is promised."""

Shape = tuple[int, int, int]


class WorkerKind(Frozen):
    """Workers that cost the same: ``device`` with the processor's name, and what decides how they compute on it."""

    device: str
    precision: str
    threads: int
    version: str


class QuotePolicy(Frozen):
    """What the policy does at this spacing: nothing is adjusted silently."""

    outside: OutsidePolicy
    out_of_range: bool
    resampled: bool


class QuoteOption(Frozen):
    """One working spacing (mm; R, A, S) and its price; the label map comes back on the scan's own grid from each.

    The prices are null where this kind of worker has not been measured with this model yet.
    """

    spacing: SpacingMm
    native: bool = Field(description="the finest spacing to be had: the scan's own, unless the policy changes that")
    shape: Shape = Field(description="voxels (R, A, S) at this spacing")
    tiles: int = Field(
        description="windows that the network runs on, each mirror image and each member of an ensemble counted"
    )
    seconds: float | None = Field(description="work of the worker, without the wait in the queue")
    seconds_high: float | None = Field(description="kept by 95 of 100 jobs; budgets are held against this figure")
    peak_bytes: int | None = Field(description="memory that the job adds to its worker at its peak")
    peak_bytes_high: int | None = Field(description="as `seconds_high`, for `peak_bytes`")
    expected_dice: ExpectedDice | None = Field(
        description="of scans acquired at this spacing, scored there; null where the model does not say"
    )
    policy: QuotePolicy


class QueueWait(Frozen):
    """``jobs`` wait or run; ``seconds`` is about how long a new job waits behind them, null where nothing is known."""

    jobs: int
    workers: int
    seconds: float | None


class Quote(Frozen):
    """The price of a scan at its own spacing (first) and at coarser ones, before it is uploaded."""

    model: str
    checkpoint_digest: str
    shape: Shape = Field(description="voxels of the scan, R,A,S")
    spacing: SpacingMm = Field(description="of the scan, in mm, R,A,S")
    worker: WorkerKind | None = Field(description="the kind of worker whose prices these are; null: there is none")
    measurements: int = Field(description="how many jobs the prices rest on; 0: the prices are unknown, and null")
    queue: QueueWait
    options: tuple[QuoteOption, ...]
    chosen: int | None = Field(
        description="index of the finest option that keeps the budget asked for; null: none does, or none was asked for"
    )


class PricedPlan(NamedTuple):
    plan: SpacingPlan
    work: Workload
    price: Price | None


def priced_plans(
    manifest: Manifest,
    shape_ras: Sequence[int],
    plans: Sequence[SpacingPlan],
    costs: CostModel | None,
    *,
    dicom: bool = False,
    mirroring: bool = False,
    progressive: bool = False,
    read_s: float | None = None,
) -> list[PricedPlan]:
    """The plans that are worth their price, the finest first.

    A plan that costs as much time and memory as a finer one, or more, is left out. Without ``costs`` all remain.

    Args:
        progressive: the time includes a first label map at a coarse spacing.
        read_s: as in :meth:`CostModel.price`.
    """
    worth: list[PricedPlan] = []
    for plan in plans:
        work = workload_of(manifest, shape_ras, plan, dicom=dicom, mirroring=mirroring)
        price = None if costs is None else costs.price(work, read_s)
        if price is not None and progressive:
            price = price.taking(1 + FIRST_LOOK_SHARE)
        if price is None or not any(_as_cheap(finer.price, price) for finer in worth):
            worth.append(PricedPlan(plan, work, price))
    return worth


def coarser_plans(
    native_mm: SpacingMm, grid: SpacingGrid, outside: OutsidePolicy, finest_mm: SpacingMm | None = None
) -> list[SpacingPlan]:
    """The plan for ``finest_mm``, by default the scan's own spacing, and those for ever coarser trained spacings.

    The axes with the shortest voxels are coarsened first, as they cost most and say least about the others.

    Raises:
        SpacingOutOfRange: as :func:`plan_spacing`.
    """
    plans = [plan_spacing(native_mm, grid, outside, finest_mm)]
    for wanted_mm in _coarser(plans[0].working_mm, grid):
        plan = plan_spacing(native_mm, grid, outside, wanted_mm)
        if plan.snapped != plans[-1].snapped:
            plans.append(plan)
    return plans


def finest_within(priced: Sequence[PricedPlan], budget: Budget) -> PricedPlan | None:
    """The first that the budget allows; None where even the coarsest is too dear, or no price is known."""
    return next((one for one in priced if one.price is not None and budget.allows(one.price)), None)


def budget_too_small(priced: Sequence[PricedPlan], budget: Budget, model: str) -> BudgetTooSmall:
    """The refusal of a budget that no plan keeps, with the least that would do. The prices must be known."""
    prices = [one.price for one in priced if one.price is not None]
    least_s = math.ceil(1000 * min(price.seconds_high for price in prices)) / 1000
    least_bytes = min(price.peak_bytes_high for price in prices)
    wanted = [f"{budget.seconds:g} s"] if budget.seconds is not None else []
    wanted += [f"{budget.peak_bytes} bytes"] if budget.peak_bytes is not None else []
    coarsest = ", ".join(f"{mm:g}" for mm in priced[-1].plan.working_mm)
    return BudgetTooSmall(
        f"no working spacing of {model} keeps a budget of {' and '.join(wanted)} for this scan; the least that would "
        f"do is {least_s:.3f} s or {least_bytes} bytes, at spacings up to {coarsest} mm (R,A,S)",
        budget_seconds=budget.seconds,
        budget_bytes=budget.peak_bytes,
        least_seconds=least_s,
        least_bytes=least_bytes,
        coarsest_mm=list(priced[-1].plan.working_mm),
    )


def quote_options(
    priced: Sequence[PricedPlan], shape_ras: Sequence[int], outside: OutsidePolicy, dice: DiceBySpacing | None = None
) -> list[QuoteOption]:
    return [_option(one, shape_ras, outside, dice, native=one is priced[0]) for one in priced]


def _option(
    one: PricedPlan, shape_ras: Sequence[int], outside: OutsidePolicy, dice: DiceBySpacing | None, *, native: bool
) -> QuoteOption:
    plan, work, price = one
    r, a, s = resampled_shape(shape_ras, plan.native_mm, plan.working_mm)
    return QuoteOption(
        spacing=plan.working_mm,
        native=native,
        shape=(r, a, s),
        tiles=work.windows,
        seconds=None if price is None else round(price.seconds, 4),
        seconds_high=None if price is None else round(price.seconds_high, 4),
        peak_bytes=None if price is None else price.peak_bytes,
        peak_bytes_high=None if price is None else price.peak_bytes_high,
        expected_dice=None if dice is None else dice.expected_dice(plan.working_mm),
        policy=QuotePolicy(outside=outside, out_of_range=plan.out_of_range, resampled=plan.resampled),
    )


def _coarser(finest_mm: SpacingMm, grid: SpacingGrid) -> Iterator[SpacingMm]:
    coarsest = [high for _, high in grid.range_mm]
    shortest = min(finest_mm)
    while shortest < max(coarsest):
        shortest *= COARSENING_STEP
        r, a, s = (max(mm, min(shortest, high)) for mm, high in zip(finest_mm, coarsest, strict=True))
        yield r, a, s


def _as_cheap(finer: Price | None, coarser: Price) -> bool:
    return finer is not None and finer.seconds <= coarser.seconds and finer.peak_bytes <= coarser.peak_bytes
