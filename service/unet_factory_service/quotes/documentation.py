"""Examples of quotes for OpenAPI."""

from typing import Any

from pydantic import JsonValue

from unet_factory.domain.quote import QueueWait, Quote, QuoteOption, QuotePolicy, WorkerKind
from unet_factory.domain.spacing import OutsidePolicy

REQUEST_EXAMPLES: list[JsonValue] = [
    {"model": "hippocampus-mr", "shape": [35, 51, 35], "spacing": [1.0, 1.0, 1.0]},
    {"model": "heart-mr", "shape": [256, 216, 10], "spacing": [1.4, 1.4, 10.0], "budget_seconds": 2.0},
]

_NATIVE = QuoteOption(
    spacing=(1.4, 1.4, 10.0),
    native=True,
    shape=(256, 216, 10),
    tiles=6,
    seconds=3.1,
    seconds_high=3.5,
    peak_bytes=402653184,
    peak_bytes_high=431000000,
    expected_dice=None,
    policy=QuotePolicy(outside=OutsidePolicy.CLAMP, out_of_range=False, resampled=False),
)
_COARSER = _NATIVE.model_copy(
    update={
        "spacing": (1.85, 1.85, 10.0),
        "native": False,
        "shape": (194, 163, 10),
        "tiles": 4,
        "seconds": 1.6,
        "seconds_high": 1.9,
        "policy": QuotePolicy(outside=OutsidePolicy.CLAMP, out_of_range=False, resampled=True),
    }
)
QUOTE_EXAMPLE: dict[str, Any] = Quote(
    model="heart-mr",
    checkpoint_digest="2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae",
    shape=(256, 216, 10),
    spacing=(1.4, 1.4, 10.0),
    worker=WorkerKind(device="cpu (AMD EPYC)", precision="float32", threads=8, version="0.1.0"),
    measurements=41,
    queue=QueueWait(jobs=2, workers=1, seconds=5.2),
    options=(_NATIVE, _COARSER),
    chosen=1,
).model_dump(mode="json")
