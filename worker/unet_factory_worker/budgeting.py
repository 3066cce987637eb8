"""Which spacing a job is segmented at: its own, or the finest that its budget is predicted to allow."""

from typing import NamedTuple

from unet_factory.domain.budget import BudgetReport
from unet_factory.domain.cost_model import CostModel
from unet_factory.domain.jobs import SegmentationRequest
from unet_factory.domain.manifest import Manifest
from unet_factory.domain.quote import budget_too_small, coarser_plans, finest_within, priced_plans
from unet_factory.domain.spacing import SpacingPlan, plan_spacing
from unet_factory.volume import VolumeHeader


class Choice(NamedTuple):
    """``coarser``: what may be taken in place of ``plan`` where memory runs out, the finest first."""

    plan: SpacingPlan
    coarser: tuple[SpacingPlan, ...] = ()
    budget: BudgetReport | None = None


def own_spacing(request: SegmentationRequest, manifest: Manifest, header: VolumeHeader) -> Choice:
    """For a job without a budget.

    Raises:
        SpacingOutOfRange: it was not trained, and the policy is ``reject``.
    """
    native_mm, wanted_mm = header.spacing_ras_mm, request.working_spacing_mm
    return Choice(plan_spacing(native_mm, manifest.grid, request.outside, wanted_mm))


def finest_affordable(
    request: SegmentationRequest, manifest: Manifest, header: VolumeHeader, costs: CostModel, read_s: float
) -> Choice:
    """For a job with a budget, after its scan was read in ``read_s``.

    Raises:
        SpacingOutOfRange: as :func:`own_spacing`.
        BudgetTooSmall: even the coarsest spacing is predicted to take more.
    """
    native_mm, wanted_mm = header.spacing_ras_mm, request.working_spacing_mm
    plans = coarser_plans(native_mm, manifest.grid, request.outside, wanted_mm)
    priced = priced_plans(manifest, header.shape_ras, plans, costs, dicom=request.is_dicom, read_s=read_s)
    chosen = finest_within(priced, request.budget)
    if chosen is None or chosen.price is None:
        raise budget_too_small(priced, request.budget, manifest.name)
    coarser = plans[plans.index(chosen.plan) + 1 :]
    return Choice(chosen.plan, tuple(coarser), BudgetReport.of(request.budget, chosen.price))
