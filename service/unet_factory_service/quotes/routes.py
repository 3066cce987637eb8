"""``POST /quote``: what a scan of some shape and spacing would cost."""

from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, Strict

from unet_factory.domain.budget import Budget
from unet_factory.domain.quote import Quote
from unet_factory.domain.spacing import OutsidePolicy, validate_spacing
from unet_factory_service.dependencies import GatewayDependency
from unet_factory_service.documentation import Responses, problems
from unet_factory_service.quotes.documentation import QUOTE_EXAMPLE, REQUEST_EXAMPLES
from unet_factory_service.quotes.quoting import QuotedScan, quote

router = APIRouter(tags=["quotes"])

_Extent = Annotated[int, Strict(), Field(ge=1, le=2**31 - 1)]
_Millimetres = Annotated[float, Strict()]
_Shape = Annotated[list[_Extent], Field(min_length=3, max_length=3)]
_Spacing = Annotated[list[_Millimetres], Field(min_length=3, max_length=3)]
_RESPONSES: Responses = {200: {"content": {"application/json": {"example": QUOTE_EXAMPLE}}}}


class QuoteRequest(BaseModel):
    """What is known of a scan from its header, and what is wanted of it; named as in ``POST /segmentations``."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [*REQUEST_EXAMPLES]})

    model: Annotated[str, Strict()] | None = Field(
        default=None, description="name of the model; the gateway's default model by default"
    )
    shape: _Shape = Field(description="voxels of the scan, in the order R,A,S")
    spacing: _Spacing = Field(description="voxel spacing in mm, in the order R,A,S; above 0, at most 1000")
    working_spacing: _Spacing | None = Field(
        default=None, description="the finest spacing to quote, in mm, in the order R,A,S; the scan's own by default"
    )
    outside: OutsidePolicy = Field(
        default=OutsidePolicy.CLAMP, description="what to do with a spacing outside the model's trained range"
    )
    dicom: Annotated[bool, Strict()] = Field(default=False, description="whether the scan is a DICOM series")
    mirroring: Annotated[bool, Strict()] = Field(
        default=False, description="whether the scan's mirror images are to be segmented too"
    )
    progressive: Annotated[bool, Strict()] = Field(
        default=False, description="whether a coarse label map is to be made first"
    )
    budget_seconds: Annotated[float, Strict(), Field(gt=0, allow_inf_nan=False)] | None = Field(
        default=None, description="have the answer name the finest spacing within this time"
    )
    budget_bytes: Annotated[int, Strict(), Field(gt=0)] | None = Field(
        default=None, description="have the answer name the finest spacing within this much memory"
    )

    @property
    def scan(self) -> QuotedScan:
        """
        Raises:
            SpacingInvalid: a spacing is not three positive numbers of at most 1000 mm.
        """
        r, a, s = self.shape
        working = None if self.working_spacing is None else validate_spacing(self.working_spacing)
        return QuotedScan(
            (r, a, s),
            validate_spacing(self.spacing),
            working,
            self.outside,
            dicom=self.dicom,
            mirroring=self.mirroring,
            progressive=self.progressive,
        )


@router.post(
    "/quote",
    operation_id="get_quote",
    summary="What a scan would cost at its own spacing and at coarser ones",
    responses=_RESPONSES | problems(400, 404, 413, 422, 503),
)
def get_quote(request: QuoteRequest, gateway: GatewayDependency) -> Quote:
    """Time, peak memory, windows and expected Dice for each spacing, predicted from finished jobs.

    Nothing is queued and no worker is asked. Prices that are not known yet are null.
    """
    model = gateway.registry.get(request.model)
    return quote(gateway, model, request.scan, Budget(request.budget_seconds, request.budget_bytes))
