"""Deliveries as an operator sees them: which are dead or wait, and sending them again."""

from enum import StrEnum
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import Field

from unet_factory.domain.frozen import Frozen
from unet_factory.domain.jobs import Delivery, DeliveryState
from unet_factory.jobs.deliveries import job_of
from unet_factory_service.dependencies import GatewayDependency
from unet_factory_service.documentation import problems

router = APIRouter(prefix="/deliveries", tags=["deliveries"])


class ListedState(StrEnum):
    DEAD = "dead"
    PENDING = "pending"


class DeliveryDescription(Delivery):
    """One delivery, by an id that stays the same over all attempts."""

    id: str = Field(examples=["3f0c2b7a9d5e4c1f8a6b0d2e4f6a8c0e-0"])
    job_id: str


class DeliveryList(Frozen):
    state: DeliveryState
    deliveries: list[DeliveryDescription]


@router.get(
    "",
    operation_id="list_deliveries",
    summary="List the deliveries that are dead or waiting",
    responses=problems(400, 503),
)
def list_deliveries(
    gateway: GatewayDependency,
    state: ListedState = ListedState.DEAD,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> DeliveryList:
    """The oldest first."""
    wanted = DeliveryState(state.value)
    found = [_described(delivery_id, delivery) for delivery_id, delivery in gateway.deliveries.listed(wanted, limit)]
    return DeliveryList(state=wanted, deliveries=found)


@router.post(
    "/{delivery_id}/replay",
    status_code=202,
    operation_id="replay_delivery",
    summary="Try a delivery again now",
    responses=problems(404, 503),
)
def replay_delivery(delivery_id: str, gateway: GatewayDependency) -> DeliveryDescription:
    """A dead one, one that waits for its next attempt, or one that was made already; its attempts count anew."""
    return _described(delivery_id, gateway.deliveries.replay(delivery_id))


def _described(delivery_id: str, delivery: Delivery) -> DeliveryDescription:
    return DeliveryDescription(id=delivery_id, job_id=job_of(delivery_id), **delivery.model_dump())
