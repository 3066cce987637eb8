"""The coarse label map that a progressive job makes first: soon enough to be worth having, as fine as that allows."""

from collections.abc import Sequence

from unet_factory.domain.cost_model import CostModel
from unet_factory.domain.manifest import Manifest
from unet_factory.domain.quote import FIRST_LOOK_SHARE, coarser_plans
from unet_factory.domain.spacing import OutsidePolicy, SpacingPlan
from unet_factory.domain.workload import workload_of

_SHARE_OF_MULTIPLICATIONS = 0.08  # what else a job does weighs more at a coarse spacing


def first_look(
    manifest: Manifest, shape_ras: Sequence[int], plan: SpacingPlan, outside: OutsidePolicy, costs: CostModel | None
) -> SpacingPlan | None:
    """The finest spacing at which the label map is there within a fifth of the time that ``plan`` takes in all.

    Without ``costs`` it is judged by the multiplications of the networks. None where no spacing is that much faster.
    """

    def effort(of: SpacingPlan) -> float:
        work = workload_of(manifest, shape_ras, of)
        return work.windows * work.window_multiplications if costs is None else costs.price(work).seconds

    allowed = (_SHARE_OF_MULTIPLICATIONS if costs is None else FIRST_LOOK_SHARE) * effort(plan)
    _, *coarser = coarser_plans(plan.native_mm, manifest.grid, outside, plan.working_mm)
    return next((each for each in coarser if effort(each) <= allowed), None)
