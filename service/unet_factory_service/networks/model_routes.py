"""``GET /models``: what this gateway can do, from the manifests alone."""

from collections import Counter
from typing import Any, Self

from fastapi import APIRouter
from pydantic import BaseModel

from unet_factory.domain.conditions import Condition
from unet_factory.domain.dice_by_spacing import DiceBySpacing
from unet_factory.domain.manifest import Architecture, HypernetworkShape, Label, Member, Normalisation
from unet_factory.domain.plausibility import Axis, Seen
from unet_factory.domain.postprocessing import Postprocessing
from unet_factory.jobs.presence import present
from unet_factory.platform.model_registry import ModelRegistry, RegisteredModel
from unet_factory_service.dependencies import GatewayDependency
from unet_factory_service.documentation import problems

router = APIRouter(prefix="/models", tags=["models"])


class ModelDescription(BaseModel):
    """A checkpoint. ``trained_range_mm`` holds (min, max) per axis (R, A, S); ``digest`` is its file's sha256.

    ``versions`` are the digests of all checkpoints of this name, the newest first: `name@digest` asks for one of them,
    by at least 12 digits. ``members`` are the checkpoints of an ensemble, which segment every scan together; a single
    checkpoint has none.
    """

    name: str
    digest: str
    versions: tuple[str, ...]
    default: bool
    architecture: Architecture
    hypernetwork: HypernetworkShape
    members: tuple[Member, ...]
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
    def of(cls, model: RegisteredModel, registry: ModelRegistry) -> Self:
        manifest = model.manifest
        return cls(
            name=manifest.name,
            digest=model.digest,
            versions=tuple(version.digest for version in reversed(registry.versions(manifest.name))),
            default=model is registry.get(),
            architecture=manifest.architecture,
            hypernetwork=manifest.hypernetwork,
            members=manifest.members,
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
    """Of each, its newest version."""
    return [ModelDescription.of(model, gateway.registry) for model in gateway.registry.all()]


@router.get("/{name}", operation_id="get_model", summary="Get one model", responses=problems(404))
def get_model(name: str, gateway: GatewayDependency) -> ModelDescription:
    """Its newest version, or with `NAME@DIGEST` that one."""
    return ModelDescription.of(gateway.registry.get(name), gateway.registry)


class LoadedVersion(BaseModel):
    """``workers``: how many have it ready now."""

    name: str
    digest: str
    file: str
    newest: bool
    workers: int


class ModelFolder(BaseModel):
    """``refused``: why each of the files that cannot be used is refused."""

    models: list[LoadedVersion]
    refused: dict[str, str]


@router.post(
    "/reload",
    operation_id="reload_models",
    summary="Look at the model folder again, and say what is used of it",
    responses=problems(503),
)
def reload_models(gateway: GatewayDependency) -> ModelFolder:
    """Gateways and workers look by themselves every two seconds; this gateway does so now.

    A refused file whose earlier content could be used is listed in both: that version stays in use.
    """
    registry = gateway.registry
    registry.look_again()
    newest = {model.digest for model in registry.all()}
    ready = Counter(digest for worker in present(gateway.redis) for digest in set(worker.models.values()))
    versions = [
        LoadedVersion(
            name=model.manifest.name,
            digest=model.digest,
            file=model.path.name,
            newest=model.digest in newest,
            workers=ready[model.digest],
        )
        for model in registry.versions()
    ]
    return ModelFolder(models=versions, refused=registry.refused())
