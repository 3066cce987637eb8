"""``GET /unet``: the standalone network for a spacing."""

import hashlib
from dataclasses import dataclass
from importlib import resources
from typing import Annotated, Any, Literal, Self

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from unet_factory.domain.conditions import (
    SnappedConditions,
    conditions_text,
    named_conditions,
    parse_conditions,
    snap_conditions,
)
from unet_factory.domain.errors import MalformedRequest, SpacingOutOfRange
from unet_factory.domain.jobs import GenerationRequest, NetworkFormat
from unet_factory.domain.segmentation_parameters import PARAMETERS
from unet_factory.domain.spacing import OutsidePolicy, ResolvedSpacing, SpacingMm, parse_spacing
from unet_factory.platform.metrics import SPACING_OUT_OF_RANGE
from unet_factory.platform.model_registry import ModelRegistry, RegisteredModel
from unet_factory_service.access.callers import CallerDependency
from unet_factory_service.conditional import (
    conditional_response,
    may_need_no_content,
    response_without_content,
)
from unet_factory_service.dependencies import GatewayDependency
from unet_factory_service.documentation import UNET_RESPONSES, file_of, problems
from unet_factory_service.networks.fetching import fetch_network
from unet_factory_service.preferences import parse_prefer

DEFAULT_WAIT_S = 30.0
PLAIN_UNET = "plain_unet.py"

_SUFFIXES: dict[NetworkFormat, str] = {"safetensors": "safetensors", "onnx": "onnx", "pt2": "pt2", "bundle": "zip"}

router = APIRouter(tags=["networks"])


class UnetQuery(BaseModel):
    """Which network; a parameter that is not listed here is an error, not ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    spacing: str = Field(
        description="voxel spacing in mm, three numbers in the order R,A,S", examples=["1,0.5,0.5"], max_length=200
    )
    model: str | None = Field(default=None, description=PARAMETERS["model"].description, max_length=100)
    member: int | None = Field(
        default=None, ge=1, description="which network of an ensemble, from 1 on; only for ensembles, and needed there"
    )
    format: NetworkFormat = Field(
        default="safetensors",
        description="safetensors; onnx, with any spatial extents; pt2, for torch.export.load; bundle, a MONAI bundle",
    )
    dtype: Literal["float32", "float16"] = Field(
        default="float32",
        description="of the stored weights: float16 takes half the bytes, and at least 99.9 % of the voxels of the"
        " example scans keep their label",
    )
    outside: OutsidePolicy = Field(default=OutsidePolicy.REJECT, description=PARAMETERS["outside"].description)
    conditions: str | None = Field(
        default=None,
        description=PARAMETERS["conditions"].description,
        examples=["inversion_time_ms=900"],
        max_length=1000,
    )


@dataclass(frozen=True)
class NetworkChoice:
    """The query in the model's own terms."""

    model: RegisteredModel
    requested_mm: SpacingMm
    resolved: ResolvedSpacing
    conditions: SnappedConditions
    query: UnetQuery

    @classmethod
    def of(cls, query: UnetQuery, registry: ModelRegistry) -> Self:
        """
        Raises:
            ModelUnknown: there is no such model.
            MemberInvalid: it is an ensemble and has no such member, or it is none and a member is asked for.
            SpacingInvalid: it is not a spacing.
            SpacingOutOfRange: it is outside the trained range, and the policy is ``reject``.
            ConditionInvalid: a condition that the model does not have, or outside its range.
        """
        model, requested_mm = registry.get(query.model), parse_spacing(query.spacing)
        model.manifest.check_member(query.member)
        given = {} if query.conditions is None else parse_conditions(query.conditions)
        conditions = snap_conditions(model.manifest.conditions, given)
        try:
            resolved = model.manifest.grid.resolve(requested_mm, query.outside)
        except SpacingOutOfRange:
            SPACING_OUT_OF_RANGE.labels(model.manifest.name).inc()
            raise
        if resolved.out_of_range:
            SPACING_OUT_OF_RANGE.labels(model.manifest.name).inc()
        return cls(model, requested_mm, resolved, conditions, query)

    @property
    def generation(self) -> GenerationRequest:
        return GenerationRequest(
            model=self.model.manifest.name,
            checkpoint_digest=self.model.digest,
            member=self.query.member,
            snapped_um=tuple(self.resolved.snapped),
            conditions=self.conditions,
            format=self.query.format,
            dtype=self.query.dtype,
        )

    @property
    def named_conditions(self) -> dict[str, float]:
        return named_conditions(self.model.manifest.conditions, self.conditions)

    @property
    def headers(self) -> dict[str, str]:
        """What the caller got for what was requested: nothing is adjusted silently."""
        return {
            "X-Requested-Spacing": ",".join(f"{mm:g}" for mm in self.requested_mm),
            "X-Snapped-Spacing": str(self.resolved.snapped),
            **({"X-Conditions": conditions_text(self.named_conditions)} if self.conditions else {}),
            "X-Out-Of-Range": str(self.resolved.out_of_range).lower(),
            "X-Outside-Policy": self.query.outside.value,
            "X-Model": self.model.manifest.name,
            **({"X-Member": str(self.query.member)} if self.query.member else {}),
            "X-Checkpoint-Digest": f"sha256:{self.model.digest}",
        }

    @property
    def file_name(self) -> str:
        spacing = "x".join(f"{mm:g}" for mm in self.resolved.snapped.mm)
        conditions = "".join(f"-{name}-{value:g}" for name, value in self.named_conditions.items())
        member = f"-member-{self.query.member}" if self.query.member else ""
        suffix = _SUFFIXES[self.query.format]
        return f"{self.model.manifest.name}{member}-{spacing}mm{conditions}-{self.query.dtype}.{suffix}"


@router.get(
    "/unet",
    operation_id="get_unet",
    summary="Fetch the standalone network for a voxel spacing",
    response_class=Response,
    responses=UNET_RESPONSES | problems(400, 404, 416, 422, 429, 500, 503),
)
async def get_unet(
    request: Request,
    query: Annotated[UnetQuery, Query()],
    gateway: GatewayDependency,
    caller: CallerDependency,
    prefer: Annotated[list[str] | None, Header(description="`wait=N` seconds, or `respond-async`")] = None,
) -> Response:
    """Answers from the cache, else has a worker make the network and waits for it (30 s unless preferred otherwise).

    What the URL stands for changes when an operator replaces the model: caches must revalidate it, by its ETag.
    """
    _refuse_repeated_parameters(request)
    choice = NetworkChoice.of(query, gateway.registry)
    preference = parse_prefer(prefer or (), default_s=DEFAULT_WAIT_S, max_s=gateway.settings.max_wait_s)
    headers = choice.headers | preference.headers
    representation: Any = {
        "headers": headers
        | {"Cache-Control": "no-cache", "Content-Disposition": f'attachment; filename="{choice.file_name}"'},
        "media_type": "application/octet-stream",
    }
    wanted = (choice.generation, caller.owner, preference.wait_s)
    if may_need_no_content(request):
        record = await fetch_network(gateway, gateway.cache.describe, *wanted)
        if record is None:
            return _come_back(request, headers)
        answer = response_without_content(request, sha256=record.sha256, size=record.size, **representation)
        if answer is not None:
            return answer
    network = await fetch_network(gateway, gateway.networks.get, *wanted)
    if network is None:
        return _come_back(request, headers)
    return conditional_response(request, network.blob, sha256=network.sha256, **representation)


@router.get(
    f"/unet/{PLAIN_UNET}",
    operation_id="get_plain_unet",
    summary="Get the code that builds a standalone network from its safetensors file",
    response_class=Response,
    responses={200: file_of("text/x-python", "Python code that needs torch and safetensors alone")},
)
def get_plain_unet(request: Request) -> Response:
    code = (resources.files("unet_factory") / "model" / PLAIN_UNET).read_bytes()
    return conditional_response(
        request,
        code,
        sha256=hashlib.sha256(code).hexdigest(),
        media_type="text/x-python; charset=utf-8",
        headers={"Cache-Control": "no-cache", "Content-Disposition": f'attachment; filename="{PLAIN_UNET}"'},
    )


def _refuse_repeated_parameters(request: Request) -> None:
    names = [name for name, _ in request.query_params.multi_items()]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise MalformedRequest(f"given more than once: {', '.join(repeated)}", repeated=repeated)


def _come_back(request: Request, headers: dict[str, str]) -> Response:
    location = f"{request.url.path}?{request.url.query}"
    return JSONResponse(
        {"state": "running", "location": location},
        202,
        headers=headers | {"Location": location, "Retry-After": "1", "Cache-Control": "no-store"},
    )
