"""Alive: the process answers. Ready: it could serve a request now. Under two names each, as probes and peers expect."""

from fastapi import APIRouter
from redis.exceptions import RedisError

from unet_factory.domain.errors import ModelUnknown
from unet_factory_service.dependencies import GatewayContext, GatewayDependency
from unet_factory_service.documentation import problems
from unet_factory_service.errors import NotReady
from unet_factory_service.operations.workers import has_worker_for

router = APIRouter(tags=["health"])


@router.head("/livez", include_in_schema=False)
@router.get("/livez", operation_id="livez", summary="Alive")
@router.get("/v2/health/live", operation_id="health_live", summary="Alive")
async def live() -> dict[str, bool]:
    return {"live": True}


@router.head("/readyz", include_in_schema=False)
@router.get("/readyz", operation_id="readyz", summary="Ready", responses=problems(503))
@router.get("/v2/health/ready", operation_id="health_ready", summary="Ready", responses=problems(503))
def ready(gateway: GatewayDependency) -> dict[str, bool]:
    """When the broker answers and a worker with the default model is up; else the problem lists what is missing."""
    missing = _missing(gateway)
    if missing:
        raise NotReady("missing: " + ", ".join(missing), missing=missing)
    return {"ready": True}


def _missing(gateway: GatewayContext) -> list[str]:
    try:
        model = gateway.registry.get()
    except ModelUnknown:
        return ["a model"]
    try:
        gateway.redis.ping()
        return [] if has_worker_for(gateway, model.digest) else [f"a worker with the model {model.manifest.name}"]
    except RedisError:
        return ["the broker"]
