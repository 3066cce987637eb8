"""One list of parameters: text is read back as it was written, and errors never quote what may name a patient."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from unet_factory.domain.errors import ConditionInvalid, MalformedRequest, SpacingInvalid
from unet_factory.domain.jobs import SegmentationRequest
from unet_factory.domain.segmentation_parameters import PARAMETERS, SegmentationOptions, SegmentationParameters, choices
from unet_factory.domain.spacing import OutsidePolicy

SECRET_UID = "1.2.840.999999.42"

_lengths = st.floats(0, 1000, exclude_min=True)
_spacings = st.tuples(_lengths, _lengths, _lengths)
_names = st.text("abcdefghij-_0123456789", min_size=1, max_size=8)
_uids = st.lists(st.integers(0, 999), min_size=1, max_size=8).map(lambda numbers: ".".join(map(str, numbers)))
_values: dict[str, st.SearchStrategy[Any]] = {
    "spacing": _spacings,
    "working_spacing": _spacings,
    "conditions": st.dictionaries(_names, st.integers(-10_000, 10_000).map(lambda n: n / 100), min_size=1),
    "send_to": st.lists(_names, unique=True).map(tuple),
    "callback_url": st.just("https://hooks.example.org/x?token=a,b=c"),
    "series_uid": _uids,
    "model": _names,
    "image_type": st.lists(st.text("ABCM_019", min_size=1, max_size=16), min_size=1, max_size=5).map(tuple),
    "budget_seconds": st.floats(0, 1e6, exclude_min=True),
    "budget_bytes": st.integers(1, 2**50),
    "echo_time_ms": st.floats(0, 1e6, exclude_min=True),
}


def value_of(name: str) -> st.SearchStrategy[Any]:
    """Any value of a parameter; of one that is not listed above, one of its choices."""
    return _values[name] if name in _values else st.sampled_from(choices(name))


ANY_PARAMETERS = st.fixed_dictionaries(
    {}, optional={name: value_of(name) for name in PARAMETERS if name not in ("pacs", "study_uid")}
).map(SegmentationParameters.model_validate)


@given(ANY_PARAMETERS)
def test_text_is_read_as_it_was_written(asked: SegmentationParameters) -> None:
    texts = asked.to_texts()
    assert all(isinstance(text, str) for text in texts.values())
    read = SegmentationParameters.from_texts(texts)
    assert read == asked
    assert read.model_fields_set == asked.model_fields_set


@given(ANY_PARAMETERS)
def test_the_worker_is_told_what_was_asked(asked: SegmentationParameters) -> None:
    request = SegmentationRequest(**asked.options(), model="m", checkpoint_digest="0", input_name="input.nii")
    stored = SegmentationRequest.model_validate_json(request.model_dump_json())
    assert stored == request
    for name in SegmentationOptions.model_fields:
        assert getattr(stored, name) == getattr(asked, name)


def test_only_what_was_given_is_written() -> None:
    assert SegmentationParameters().to_texts() == {}
    assert SegmentationParameters(outside=OutsidePolicy.CLAMP, send_to=()).to_texts() == {
        "outside": "clamp",
        "send_to": "",
    }


def test_every_parameter_says_what_it_is() -> None:
    for name, field in PARAMETERS.items():
        assert len(field.description or "") > 10, name


@pytest.mark.parametrize(
    ("texts", "error", "said"),
    [
        ({"outside": "guess"}, MalformedRequest, "outside is 'guess', allowed are reject, clamp, extrapolate"),
        ({"output": "x" * 500}, MalformedRequest, f"output is {'x' * 100!r}, allowed are nii.gz, nrrd"),
        ({"seg_type": "fractional"}, MalformedRequest, "seg_type is 'fractional', allowed are binary, labelmap"),
        ({"spacing": "1,2"}, SpacingInvalid, "not 2"),
        ({"working_spacing": ""}, SpacingInvalid, "three comma-separated numbers"),
        ({"conditions": "warm"}, ConditionInvalid, "NAME=NUMBER"),
        ({"pacs": "main", "series_uid": SECRET_UID}, MalformedRequest, "missing: study_uid"),
        ({"study_uid": SECRET_UID}, MalformedRequest, "missing: pacs, series_uid"),
        ({"series_uid": f"{SECRET_UID}."}, MalformedRequest, "series_uid must be a DICOM UID"),
        ({"spacing_ras_mm": "1,1,1"}, MalformedRequest, "spacing_ras_mm"),
    ],
)
def test_what_is_wrong_is_said_without_what_may_name_a_patient(
    texts: dict[str, str], error: type[Exception], said: str
) -> None:
    with pytest.raises(error) as raised:
        SegmentationParameters.from_texts(texts)
    assert said in str(raised.value)
    assert SECRET_UID not in str(raised.value) + json.dumps(getattr(raised.value, "details", {}))


@pytest.mark.parametrize("value", [3, [1, 1], [1, 1, None], [1, 1, "x"]])
@pytest.mark.parametrize("name", ["spacing", "conditions", "send_to"])
def test_a_value_of_the_wrong_type_is_an_error_of_validation(name: str, value: object) -> None:
    with pytest.raises(ValidationError):
        SegmentationParameters.model_validate({name: value})
