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
    401: "No API key, or none that holds",
    403: "The API key lacks the scope",
    404: "There is no such job, model or page, or not for this key",
    406: "None of the media types in `Accept` is served here",
    409: "The state of the job, or an Idempotency-Key, is in the way",
    410: "The job has expired or was purged",
    413: "Too large: compressed, decompressed or in voxels",
    415: "The file is not a readable volume",
    416: "The range begins behind the end",
    422: "The geometry, the spacing, or something that is not supported",
    429: "The queue is full, or the key's quota used up; come back after `Retry-After` seconds",
    500: "An error of the service or of its worker",
    502: "The archive did not hand the series out",
    503: "Redis or the workers are away; come back after `Retry-After` seconds",
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
    "ETag": _header("strong; the sha256 of the whole file", '"9f86d0..."'),
    "Repr-Digest": _header("sha256 of the whole file, base64 (RFC 9530)", "sha-256=:n4bQgY...=:"),
    "X-Requested-Spacing": _header("mm, R,A,S", "1,0.5,0.52"),
    "X-Snapped-Spacing": _header("mm, R,A,S: what the network was made for", "1,0.5,0.5"),
    "X-Conditions": _header("for a model that has conditions: what the network was made for", "inversion_time_ms=900"),
    "X-Out-Of-Range": _header("whether the request lay outside the trained range", "false"),
    "X-Outside-Policy": _header("what was done about that", "reject"),
    "X-Checkpoint-Digest": _header("the hypernetwork that made it", "sha256:2c26b4..."),
}

UNET_RESPONSES: Responses = {
    200: file_of("application/octet-stream", "A safetensors file with its manifest") | {"headers": _UNET_HEADERS},
    202: {
        "description": "Still being made; ask the same URL again after `Retry-After` seconds",
        "content": {"application/json": {"example": {"state": "running", "location": "/unet?spacing=1,0.5,0.5"}}},
    },
    206: file_of("application/octet-stream", "The bytes of the `Range`"),
    304: {"description": "The caller has these bytes already (`If-None-Match`)"},
}
