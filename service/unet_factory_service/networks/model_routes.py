"""``GET /models``: what this gateway can do, from the manifests alone."""

from typing import Any, Self

from fastapi import APIRouter
from pydantic import BaseModel

from unet_factory.domain.conditions import Condition
from unet_factory.domain.dice_by_spacing import DiceBySpacing
from unet_factory.domain.manifest import Architecture, HypernetworkShape, Label, Normalisation
from unet_factory.domain.plausibility import Axis, Seen
from unet_factory.domain.postprocessing import Postprocessing
from unet_factory.platform.model_registry import RegisteredModel
from unet_factory_service.dependencies import GatewayDependency
from unet_factory_service.documentation import problems

router = APIRouter(prefix="/models", tags=["models"])


class ModelDescription(BaseModel):
    """A checkpoint. ``trained_range_mm`` holds (min, max) per axis (R, A, S); ``digest`` is its file's sha256."""

    name: str
    digest: str
    default: bool
    architecture: Architecture
    hypernetwork: HypernetworkShape
    labels: tuple[Label, ...]
    modality: str
    trained_range_mm: tuple[tuple[float, float], ...]
    grid_step_mm: float
    conditions: tuple[Condition, ...]
    window: tuple[int, int, int]
    orientation: str
    normalisation: Normalisation
    postprocessing: Postprocessing
    mirrored_axes: tuple[Axis, ...]
    metrics: tuple[dict[str, Any], ...]
    dice_by_spacing: DiceBySpacing | None
    seen: Seen | None
    licence: str
    citation: str
    card: str

    @classmethod
    def of(cls, model: RegisteredModel, *, default: bool) -> Self:
        manifest = model.manifest
        return cls(
            name=manifest.name,
            digest=model.digest,
            default=default,
            architecture=manifest.architecture,
            hypernetwork=manifest.hypernetwork,
            labels=manifest.labels,
            modality=manifest.modality,
            trained_range_mm=manifest.grid.range_mm,
            grid_step_mm=manifest.grid.step_mm,
            conditions=manifest.conditions,
            window=manifest.window,
            orientation=manifest.preprocessing.orientation,
            normalisation=manifest.preprocessing.normalisation,
            postprocessing=manifest.postprocessing,
            mirrored_axes=manifest.mirrored_axes,
            metrics=manifest.metrics,
            dice_by_spacing=manifest.dice_by_spacing,
            seen=manifest.seen,
            licence=manifest.licence,
            citation=manifest.citation,
            card=manifest.card,
        )


@router.get("", operation_id="list_models", summary="List all models")
def list_models(gateway: GatewayDependency) -> list[ModelDescription]:
    registry = gateway.registry
    return [ModelDescription.of(model, default=model is registry.get()) for model in registry.all()]


@router.get("/{name}", operation_id="get_model", summary="Get one model", responses=problems(404))
def get_model(name: str, gateway: GatewayDependency) -> ModelDescription:
    model = gateway.registry.get(name)
    return ModelDescription.of(model, default=model is gateway.registry.get())
