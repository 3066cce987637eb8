"""What OpenAPI says beyond the types, for all routes: problem documents, and the answers that are files."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from unet_factory.domain.problems import TYPE_PREFIX

Responses = dict[int | str, dict[str, Any]]


class ProblemDocument(BaseModel):
    """RFC 9457. Further members hold the offending and the allowed values."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description="stable; branch on this", examples=[f"{TYPE_PREFIX}spacing-out-of-range"])
    title: str
    status: int
    detail: str = Field(description="what was wrong, and what is allowed")


_MEANING = {
    400: "Malformed request",
    401: "The API key is missing or not valid",
    403: "The API key does not have the required scope",
    404: "There is no such job, model or page, or this API key may not see it",
    406: "None of the media types in `Accept` is available",
    409: "Conflict with the state of the job or with an earlier use of the Idempotency-Key",
    410: "The job has expired or was purged",
    413: "Too large: in compressed bytes, decompressed bytes or voxels",
    415: "The file is not a readable volume",
    416: "The range begins beyond the end of the file",
    422: "The geometry or the spacing cannot be used, or something is not supported",
    429: "The queue is full or the key's quota is used up; try again after `Retry-After` seconds",
    500: "An unexpected error in the gateway or in a worker",
    501: "The protocol has this, and the gateway does not; the problem says what to use instead",
    502: "The series could not be fetched from the archive",
    503: "Redis or the workers cannot be reached; try again after `Retry-After` seconds",
    504: "The job took longer than its deadline",
    507: "The disk is full",
}


def problems(*statuses: int) -> Responses:
    """The documented problem answers of a route."""
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}}
    return {status: {"description": _MEANING[status], "content": content} for status in statuses}


def file_of(media_type: str, description: str) -> dict[str, Any]:
    """An answer that is a file."""
    schema = {"type": "string", "format": "binary"}
    return {"description": description, "content": {media_type: {"schema": schema}}}


def _header(description: str, example: str) -> dict[str, Any]:
    return {"description": description, "schema": {"type": "string"}, "example": example}


_UNET_HEADERS = {
    "ETag": _header("strong validator: the SHA-256 of the whole file", '"9f86d0..."'),
    "Repr-Digest": _header("SHA-256 of the whole file in base64 (RFC 9530)", "sha-256=:n4bQgY...=:"),
    "X-Requested-Spacing": _header("requested spacing in mm, R,A,S", "1,0.5,0.52"),
    "X-Snapped-Spacing": _header("spacing that the network was made for, in mm, R,A,S", "1,0.5,0.5"),
    "X-Conditions": _header("conditions that the network was made for, if the model has any", "inversion_time_ms=900"),
    "X-Out-Of-Range": _header("whether the requested spacing is outside the trained range", "false"),
    "X-Outside-Policy": _header("policy that was applied to such a spacing", "reject"),
    "X-Checkpoint-Digest": _header("checkpoint that generated the network", "sha256:2c26b4..."),
    "X-Member": _header("which member of an ensemble it is, if the model is one", "2"),
}

UNET_RESPONSES: Responses = {
    200: file_of("application/octet-stream", "The network's file, with its manifest in it")
    | {"headers": _UNET_HEADERS},
    202: {
        "description": "The network is still being generated; request the same URL again after `Retry-After` seconds",
        "content": {"application/json": {"example": {"state": "running", "location": "/unet?spacing=1,0.5,0.5"}}},
    },
    206: file_of("application/octet-stream", "The bytes of the `Range`"),
    304: {"description": "Not modified: the caller already has these bytes (`If-None-Match`)"},
}
