"""What OpenAPI says beyond the types: problem documents, examples, and the answers that are files or streams."""

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

LABELMAP_RESPONSES: Responses = {
    200: {
        "description": "The label map on the scan's own grid, in the format that was asked for",
        "content": {
            media_type: {"schema": {"type": "string", "format": "binary"}}
            for media_type in ("application/gzip", "application/octet-stream")
        },
    },
    206: {"description": "The bytes of the `Range`"},
}

EVENTS_RESPONSES: Responses = {
    200: {
        "description": "Server-sent events named `job`; the data of each is the job as JSON. Ends after a final state.",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }
}

_SPACING = {"type": "string", "example": "1,0.5,0.5"}
_PARAMETERS: dict[str, dict[str, Any]] = {
    "model": {"type": "string", "description": "the configured default when absent"},
    "spacing": _SPACING | {"description": "mm, R,A,S; overrides what the header says"},
    "working_spacing": _SPACING | {"description": "mm, R,A,S to segment at; native when absent"},
    "conditions": {
        "type": "string",
        "example": "inversion_time_ms=900",
        "description": "for a model that has conditions, NAME=NUMBER with commas between; their defaults when absent",
    },
    "outside": {
        "type": "string",
        "enum": ["clamp", "reject", "extrapolate"],
        "default": "clamp",
        "description": "what to do with a spacing outside the trained range",
    },
    "output": {"type": "string", "enum": ["nii.gz", "nrrd"], "default": "nii.gz"},
    "seg_type": {
        "type": "string",
        "enum": ["binary", "labelmap"],
        "default": "binary",
        "description": "of the DICOM segmentation, for a DICOM series only; older viewers know binary alone",
    },
}

SEGMENTATION_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "oneOf": [{"required": ["file"]}, {"required": ["pacs", "study_uid", "series_uid"]}],
                    "additionalProperties": False,
                    "properties": {
                        "file": {
                            "type": "string",
                            "format": "binary",
                            "description": "a NIfTI, MHA or NRRD volume, or a DICOM series: a zip archive of its files,"
                            " or one enhanced multi-frame object; recognised by content, names are ignored",
                        },
                        **_PARAMETERS,
                        "pacs": {
                            "type": "string",
                            "description": "name of a configured archive that the series is fetched from, in place of"
                            " `file`",
                        },
                        "study_uid": {"type": "string", "description": "Study Instance UID, with `pacs`"},
                        "series_uid": {
                            "type": "string",
                            "description": "Series Instance UID: with `pacs` of the series to fetch, with `file` of the"
                            " one to take of several series in the zip archive",
                        },
                        "send_to": {
                            "type": "string",
                            "description": "names of configured archives, with commas, that get the DICOM results;"
                            " where absent, results of a fetched series go to the archive's own `results_to`",
                        },
                        "callback_url": {
                            "type": "string",
                            "format": "uri",
                            "description": "told when the job is final: a signed webhook (Standard Webhooks), to hosts"
                            " that the operator allows",
                        },
                    },
                }
            },
            'multipart/related; type="application/dicom"': {
                "schema": {"type": "array", "items": {"type": "string", "format": "binary"}}
            },
        },
    },
    "parameters": [
        {
            "name": name,
            "in": "query",
            "schema": {key: value for key, value in schema.items() if key != "description"},
            "description": f"only with a multipart/related body; {schema.get('description', 'of the label map')}",
        }
        for name, schema in _PARAMETERS.items()
    ],
}

JOB_EXAMPLE: dict[str, Any] = {
    "id": "3f0c2b7a9d5e4c1f8a6b0d2e4f6a8c0e",
    "state": "running",
    "progress": 0.42,
    "model": "hippocampus-mr",
    "policy": {"outside": "clamp", "out_of_range": False, "resampled": False},
    "spacing": {"native": [1.0, 1.0, 1.0], "requested": [1.0, 1.0, 1.0], "working": [1.0, 1.0, 1.0]},
    "conditions": {},
    "device": "cpu",
    "timings_s": {"fetch": 0.01, "load": 0.04, "weights": 0.05},
    "peak_bytes": None,
    "weights_cached": False,
    "volumes_ml": None,
    "notes": [],
    "error": None,
    "attempts": 1,
    "created": 1767225600.0,
    "finished": None,
    "expires": 1767312000.0,
    "fetch": None,
    "deliveries": [],
}
FINISHED_JOB_EXAMPLE: dict[str, Any] = JOB_EXAMPLE | {
    "state": "succeeded",
    "progress": 1.0,
    "timings_s": {"fetch": 0.01, "load": 0.04, "weights": 0.05, "infer": 0.32, "write": 0.01},
    "peak_bytes": 66060288,
    "volumes_ml": {"anterior hippocampus": 1.42, "posterior hippocampus": 1.61},
    "finished": 1767225601.0,
}
