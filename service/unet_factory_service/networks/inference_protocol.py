"""The Open Inference Protocol (KServe v2): metadata and readiness. Scans are segmented by jobs, not by ``infer``.

A model's versions are its checkpoints, named by the first 12 digits of their digests.
"""

from fastapi import APIRouter, Response
from pydantic import BaseModel

import unet_factory
from unet_factory.platform.model_registry import SHORTEST_DIGEST, RegisteredModel
from unet_factory_service.dependencies import GatewayContext, GatewayDependency
from unet_factory_service.documentation import problems
from unet_factory_service.errors import InferenceByJobs, NotReady
from unet_factory_service.operations.workers import has_worker_for

router = APIRouter(prefix="/v2", tags=["models"])


class ServerMetadata(BaseModel):
    name: str
    version: str
    extensions: list[str]


class TensorMetadata(BaseModel):
    """-1: any extent."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(BaseModel):
    """The tensors that the model stands between, in the order R, A, S; ``versions`` are those that may be asked for."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ModelReadiness(BaseModel):
    name: str
    ready: bool


@router.get("", operation_id="server_metadata", summary="The server, by the Open Inference Protocol")
def server_metadata() -> ServerMetadata:
    return ServerMetadata(name="unet-factory", version=unet_factory.__version__, extensions=[])


@router.get(
    "/models/{name}",
    operation_id="model_metadata",
    summary="A model, by the Open Inference Protocol",
    responses=problems(404),
)
@router.get(
    "/models/{name}/versions/{version}",
    operation_id="model_version_metadata",
    summary="A version of a model, by the Open Inference Protocol",
    responses=problems(404),
)
def model_metadata(name: str, gateway: GatewayDependency, version: str | None = None) -> ModelMetadata:
    model = _model(gateway, name, version)
    versions = gateway.registry.versions(model.manifest.name)
    return ModelMetadata(
        name=model.manifest.name,
        versions=[one.digest[:SHORTEST_DIGEST] for one in reversed(versions)],
        platform="unet_factory_hypernetwork",
        inputs=[TensorMetadata(name="image", datatype="FP32", shape=[-1, -1, -1])],
        outputs=[TensorMetadata(name="labelmap", datatype="UINT8", shape=[-1, -1, -1])],
    )


@router.get(
    "/models/{name}/ready",
    operation_id="model_ready",
    summary="Whether a worker has the model ready",
    responses=problems(404, 503),
)
@router.get(
    "/models/{name}/versions/{version}/ready",
    operation_id="model_version_ready",
    summary="Whether a worker has the version of the model ready",
    responses=problems(404, 503),
)
def model_ready(name: str, gateway: GatewayDependency, version: str | None = None) -> ModelReadiness:
    """For any spacing: there is nothing to load or to unload for one."""
    model = _model(gateway, name, version)
    if not has_worker_for(gateway, model.digest):
        raise NotReady(f"no worker has {model.version} ready", missing=[model.version])
    return ModelReadiness(name=model.manifest.name, ready=True)


@router.post(
    "/models/{name}/infer",
    operation_id="model_infer",
    summary="Not offered: segment scans by POST /segmentations",
    responses=problems(404, 501),
)
@router.post(
    "/models/{name}/versions/{version}/infer",
    operation_id="model_version_infer",
    summary="Not offered: segment scans by POST /segmentations",
    responses=problems(404, 501),
)
def model_infer(name: str, gateway: GatewayDependency, version: str | None = None) -> Response:
    """A tensor says neither its spacing nor its orientation, on which the network depends, and takes minutes."""
    model = _model(gateway, name, version)
    raise InferenceByJobs(
        "tensors are not taken: send the scan as a file, which tells its spacing and orientation, with POST"
        f" /segmentations and model={model.version}; or fetch the network for a spacing with GET /unet and run it"
        " yourself",
        model=model.version,
    )


def _model(gateway: GatewayContext, name: str, version: str | None) -> RegisteredModel:
    return gateway.registry.get(name if version is None else f"{name}@{version}")
