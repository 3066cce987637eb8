"""Which spacing a job is segmented at, the stage in which its network runs, and what is done where memory runs out."""

import logging
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from unet_factory.domain.budget import BudgetReport
from unet_factory.domain.cost_model import CostModel
from unet_factory.domain.jobs import GenerationRequest, SegmentationRequest, Spacings
from unet_factory.domain.manifest import Manifest
from unet_factory.domain.plausibility import Axis
from unet_factory.domain.quote import budget_too_small, coarser_plans, finest_within, priced_plans
from unet_factory.domain.spacing import SpacingPlan, plan_spacing
from unet_factory.model.device import release_memory
from unet_factory.model.ensemble import SegmentingNetwork
from unet_factory.model.inference import OnWindow, segment_scan
from unet_factory.model.mirroring import mirrored
from unet_factory.model.out_of_memory import Way, first_that_fits, ways
from unet_factory.platform import metrics
from unet_factory.volume import Volume, VolumeHeader
from unet_factory_worker.child import WorkerContext
from unet_factory_worker.window_sharing import WindowSharing

log = logging.getLogger(__name__)


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
    priced = priced_plans(
        manifest,
        header.shape_ras,
        plans,
        costs,
        dicom=request.is_dicom,
        mirroring=request.mirroring,
        progressive=request.progressive,
        read_s=read_s,
    )
    chosen = finest_within(priced, request.budget)
    if chosen is None or chosen.price is None:
        raise budget_too_small(priced, request.budget, manifest.name)
    coarser = plans[plans.index(chosen.plan) + 1 :]
    return Choice(chosen.plan, tuple(coarser), BudgetReport.of(request.budget, chosen.price))


class Inference(NamedTuple):
    """A label map (r, a, s), the way in which it was made, and whether other workers were asked to help."""

    way: Way
    labels: NDArray[np.uint8]
    shared: bool


class Tell(Protocol):
    """Writes fields of the job's record."""

    def __call__(self, **fields: object) -> None: ...


@dataclass(frozen=True)
class InferenceStage:
    """Of one job. ``may_share``: the windows of the given way, with other workers."""

    job_id: str
    request: SegmentationRequest
    context: WorkerContext
    manifest: Manifest
    tell: Tell
    on_window: OnWindow
    mirrored_axes: tuple[Axis, ...] = ()
    may_share: bool = False

    def run(self, unet: SegmentingNetwork, volume: Volume, choice: Choice) -> Inference:
        """
        Args:
            unet: the network for ``choice.plan``.

        Raises:
            OutOfMemory: memory ran out in every way.
        """
        context = self.context
        given, sharing = Way(choice.plan, context.device), self._sharing(choice.plan)

        def attempt(way: Way) -> NDArray[np.uint8]:
            same = (way.plan, way.device) == (given.plan, given.device)
            return self._segment(
                unet if same else self._network(way), volume, way, sharing if self.may_share and way == given else None
            )

        possible = ways(choice.plan, choice.coarser, context.device, cpu_allowed=context.settings.cpu_fallback)
        way, labels = first_that_fits(possible, attempt, lambda way: self._fall_back(way, volume))
        return Inference(way, labels, sharing.offered)

    def _sharing(self, plan: SpacingPlan) -> WindowSharing:
        request = self.request
        network = GenerationRequest(
            model=request.model,
            checkpoint_digest=request.checkpoint_digest,
            snapped_um=tuple(plan.snapped),
            conditions=request.conditions,
        )
        return WindowSharing(self.context, self.job_id, network, self.mirrored_axes)

    def _network(self, way: Way) -> SegmentingNetwork:
        request = self.request
        return self.context.factory.network_on(
            way.device, request.model, request.checkpoint_digest, way.plan.snapped, request.conditions
        )

    def _segment(
        self, network: SegmentingNetwork, volume: Volume, way: Way, sharing: WindowSharing | None
    ) -> NDArray[np.uint8]:
        context = self.context
        return segment_scan(
            mirrored(network, self.mirrored_axes),
            torch.from_numpy(volume.data),
            way.plan,
            way.execution(self.manifest, network.divisors, context.precision),
            postprocessing=self.manifest.postprocessing,
            max_voxels=context.settings.max_voxels,
            on_window=self.on_window,
            sharing=sharing,
        ).numpy()

    def _fall_back(self, way: Way, volume: Volume) -> None:
        """Free what can be freed, and tell what is tried next."""
        self.context.factory.forget_networks()
        release_memory(self.context.device)
        metrics.OOM_FALLBACKS.labels(way.step).inc()
        log.warning("job %s ran out of memory; another way is tried: %s", self.job_id, way.step)
        working = Spacings(
            native=volume.spacing_ras_mm, requested=self.request.working_spacing_mm, working=way.plan.working_mm
        )
        self.tell(spacing=working, device=str(way.device))
