"""What OpenAPI says of segmentations beyond the types: the form, from its parameters, and examples."""

from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from unet_factory.domain.jobs import Job, JobState, PolicyReport, Spacings
from unet_factory.domain.segmentation_parameters import NEVER_IN_A_URL, SERIES_REFERENCE, SegmentationParameters
from unet_factory.domain.spacing import OutsidePolicy
from unet_factory_service.documentation import Responses

LABELMAP_RESPONSES: Responses = {
    200: {
        "description": "The label map on the scan's own grid, in the requested format",
        "content": {
            media_type: {"schema": {"type": "string", "format": "binary"}}
            for media_type in ("application/gzip", "application/octet-stream")
        },
    },
    206: {"description": "The bytes of the `Range`"},
}

EVENTS_RESPONSES: Responses = {
    200: {
        "description": "Server-sent events named `job`; the data of each is the job as JSON. Ends after a final state. "
        "One named `coarse` comes once the coarse label map of a progressive job can be fetched.",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }
}


class _FormSchema(GenerateJsonSchema):
    """For the fields of a form: one that is not given is absent, never null."""

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002 (the signature of pydantic's)
        return False


def _parameter_schemas() -> dict[str, dict[str, Any]]:
    """The schema of each parameter of a segmentation, in the order in which they are declared."""
    document = SegmentationParameters.model_json_schema(schema_generator=_FormSchema)
    return {name: _plain(schema, document.get("$defs", {})) for name, schema in document["properties"].items()}


def _plain(schema: dict[str, Any], definitions: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The schema with its references resolved, and without a default that only means "not given"."""
    named = definitions.get(schema.get("$ref", "").rpartition("/")[2], {})
    inlined = {key: named[key] for key in ("type", "enum") if key in named} | schema
    return {
        key: value for key, value in inlined.items() if key != "$ref" and not (key == "default" and value in (None, {}))
    }


_PARAMETERS = _parameter_schemas()

SEGMENTATION_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "oneOf": [{"required": ["file"]}, {"required": list(SERIES_REFERENCE)}],
                    "additionalProperties": False,
                    "properties": {
                        "file": {
                            "type": "string",
                            "format": "binary",
                            "description": "a NIfTI, MHA or NRRD volume, or a DICOM series: a zip archive of its files,"
                            " or one enhanced multi-frame object; recognised by content, file names are ignored",
                        },
                        **_PARAMETERS,
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
            "description": f"only with a multipart/related body; {schema['description']}",
        }
        for name, schema in _PARAMETERS.items()
        if name not in NEVER_IN_A_URL
    ],
}

_RUNNING = Job(
    id="3f0c2b7a9d5e4c1f8a6b0d2e4f6a8c0e",
    state=JobState.RUNNING,
    progress=0.42,
    model="hippocampus-mr",
    policy=PolicyReport(outside=OutsidePolicy.CLAMP),
    spacing=Spacings(native=(1, 1, 1), requested=(1, 1, 1), working=(1, 1, 1)),
    device="cpu",
    precision="bfloat16",
    timings_s={"fetch": 0.01, "load": 0.04, "weights": 0.05},
    weights_cached=False,
    attempts=1,
    created=1767225600.0,
    expires=1767312000.0,
)
_SUCCEEDED = _RUNNING.model_copy(
    update={
        "state": JobState.SUCCEEDED,
        "progress": 1.0,
        "timings_s": _RUNNING.timings_s | {"infer": 0.32, "write": 0.01},
        "peak_bytes": 66060288,
        "volumes_ml": {"anterior hippocampus": 1.42, "posterior hippocampus": 1.61},
        "finished": 1767225601.0,
    }
)
JOB_EXAMPLE: dict[str, Any] = _RUNNING.model_dump(mode="json")
FINISHED_JOB_EXAMPLE: dict[str, Any] = _SUCCEEDED.model_dump(mode="json")
