"""A quote from the header's figures and what was measured: no worker is asked."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from unet_factory.domain.budget import Budget
from unet_factory.domain.cost_model import CostModel
from unet_factory.domain.quote import (
    PricedPlan,
    QueueWait,
    Quote,
    Shape,
    WorkerKind,
    budget_too_small,
    coarser_plans,
    finest_within,
    priced_plans,
    quote_options,
)
from unet_factory.domain.spacing import OutsidePolicy, SpacingMm, SpacingPlan, check_working_size
from unet_factory.domain.workload import workload_of
from unet_factory.jobs.costs import KnownCosts
from unet_factory.jobs.presence import WorkerPresence, present
from unet_factory.platform.model_registry import RegisteredModel
from unet_factory_service.dependencies import GatewayContext


class QuotedScan(NamedTuple):
    """What a price depends on, besides the model: the scan's grid (R, A, S), and what is asked for."""

    shape: Shape
    spacing_mm: SpacingMm
    working_spacing_mm: SpacingMm | None = None
    outside: OutsidePolicy = OutsidePolicy.CLAMP
    dicom: bool = False
    mirroring: bool = False
    progressive: bool = False


def quote(gateway: GatewayContext, model: RegisteredModel, scan: QuotedScan, budget: Budget) -> Quote:
    """
    Raises:
        SpacingOutOfRange: the model was not trained at the scan's spacing, and the policy is ``reject``.
        VolumeTooLarge: the scan would be refused for its size.
        MalformedRequest: the model cannot be mirrored.
    """
    plans = coarser_plans(scan.spacing_mm, model.manifest.grid, scan.outside, scan.working_spacing_mm)
    check_working_size(scan.shape, plans[0], gateway.settings.max_voxels)
    workers = [worker for worker in present(gateway.redis) if model.digest in worker.models.values()]
    first = workload_of(model.manifest, scan.shape, plans[0], dicom=scan.dicom, mirroring=scan.mirroring)
    kind, costs = _slowest(workers, gateway.costs.known(model.digest), lambda known: known.model.price(first).seconds)
    priced = _priced(model, scan, plans, costs)
    chosen = finest_within(priced, budget) if budget.limited else None
    return Quote(
        model=model.manifest.name,
        checkpoint_digest=model.digest,
        shape=scan.shape,
        spacing=scan.spacing_mm,
        worker=kind,
        measurements=0 if costs is None else costs.observations,
        queue=_wait(gateway, len(workers)),
        options=tuple(quote_options(priced, scan.shape, scan.outside, model.manifest.dice_by_spacing)),
        chosen=None if chosen is None else priced.index(chosen),
    )


def refuse_unaffordable(gateway: GatewayContext, model: RegisteredModel, scan: QuotedScan, budget: Budget) -> None:
    """Whichever worker takes the job has to keep the budget; one that was never measured decides for itself.

    Raises:
        BudgetTooSmall: some kind of worker that is up keeps the budget at no spacing.
    """
    if not budget.limited:
        return
    up = {worker.kind for worker in present(gateway.redis) if model.digest in worker.models.values()}
    plans = coarser_plans(scan.spacing_mm, model.manifest.grid, scan.outside, scan.working_spacing_mm)
    for kind, costs in gateway.costs.known(model.digest):
        if kind in up:
            priced = _priced(model, scan, plans, costs)
            if finest_within(priced, budget) is None:
                raise budget_too_small(priced, budget, model.manifest.name)


def _priced(
    model: RegisteredModel, scan: QuotedScan, plans: Sequence[SpacingPlan], costs: CostModel | None
) -> list[PricedPlan]:
    return priced_plans(
        model.manifest,
        scan.shape,
        plans,
        costs,
        dicom=scan.dicom,
        mirroring=scan.mirroring,
        progressive=scan.progressive,
    )


def _slowest(
    workers: Sequence[WorkerPresence], known: Sequence[KnownCosts], seconds: Callable[[KnownCosts], float]
) -> tuple[WorkerKind | None, CostModel | None]:
    """The kind of worker to quote: of those that are up, or that were, the one that takes longest.

    Any of them may take the job, so the others keep the promise too.
    """
    up = [worker.kind for worker in workers if worker.kind is not None]
    candidates = [each for each in known if each.kind in up] if up else list(known)
    if candidates:
        slowest = max(candidates, key=seconds)
        return slowest.kind, slowest.model
    return (up[0] if up else None), None


def _wait(gateway: GatewayContext, workers: int) -> QueueWait:
    """As long as the jobs ahead take at the pace of the last ones."""
    jobs = gateway.jobs.count_active()
    mean_s = gateway.costs.mean_service_s()
    if jobs == 0 and workers:
        return QueueWait(jobs=0, workers=workers, seconds=0.0)
    seconds = round(jobs * mean_s / workers, 3) if workers and mean_s is not None else None
    return QueueWait(jobs=jobs, workers=workers, seconds=seconds)
