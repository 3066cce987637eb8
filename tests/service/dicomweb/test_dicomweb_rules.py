"""The operator's rules: which match, which are refused at the start; and what a search may ask for."""

import string
from pathlib import Path
from urllib.parse import quote

import pytest
from fastapi import Request
from pydicom import Dataset

from unet_factory.destinations import Destinations
from unet_factory.domain.errors import MalformedRequest, RoutingInvalid
from unet_factory.domain.segmentation_parameters import SegmentationParameters
from unet_factory.platform.model_registry import ModelRegistry
from unet_factory_service.dicomweb.dicom_json import dicom_json
from unet_factory_service.dicomweb.matching import Search
from unet_factory_service.dicomweb.routing import Match, read_routing


@pytest.fixture
def registry(tiny_models: Path) -> ModelRegistry:
    return ModelRegistry.scan(tiny_models)


@pytest.fixture
def destinations() -> Destinations:
    return Destinations.model_validate({"pacs": {"main": {"dicomweb": {"url": "http://127.0.0.1:1/dicom-web"}}}})


def header(**attributes: str) -> Dataset:
    dataset = Dataset()
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


@pytest.mark.parametrize(
    ("match", "holds"),
    [
        ({}, True),
        ({"modality": "MR"}, True),
        ({"modality": "CT"}, False),
        ({"body_part": "brain"}, True),
        ({"series_description": "hippo"}, True),
        ({"series_description": "^hippo$"}, False),
        ({"series_description": "t1.*hippo", "modality": "MR"}, True),
        ({"series_description": "t1.*hippo", "modality": "CT"}, False),
        ({"study_description": "."}, False),
        ({"protocol_name": "x*"}, True),
    ],
)
def test_all_that_a_rule_names_must_hold(match: dict[str, str], holds: bool) -> None:
    series = header(Modality="MR", BodyPartExamined="BRAIN", SeriesDescription="T1 3D Hippocampus")
    assert Match.model_validate(match).holds(series) is holds


def test_the_first_rule_that_matches_decides(
    tmp_path: Path, registry: ModelRegistry, destinations: Destinations
) -> None:
    file = tmp_path / "routing.yml"
    file.write_text(
        "rules:\n- {match: {series_description: scout}, model: tiny, outside: reject}\n"
        "- {match: {modality: MR}, model: tiny, send_to: [main]}\n"
    )
    routing = read_routing(file, registry, destinations)
    assert routing is not None
    first, second = routing.rules
    assert routing.rule_for(header(Modality="MR", SeriesDescription="Scout")) is first
    assert routing.rule_for(header(Modality="MR", SeriesDescription="T1")) is second
    assert routing.rule_for(header(Modality="SEG", SeriesDescription="T1")) is None


def test_without_rules_the_default_model_takes_its_own_modality(
    tmp_path: Path, registry: ModelRegistry, destinations: Destinations
) -> None:
    (tmp_path / "empty.yml").write_text("# nothing yet\n")
    for file in (None, tmp_path / "empty.yml"):
        routing = read_routing(file, registry, destinations)
        assert routing is not None
        rule = routing.rule_for(header(Modality="MR"))
        assert rule is not None
        assert (rule.model, rule.send_to) == ("tiny", ())
        assert routing.rule_for(header(Modality="SR")) is None


def test_a_rule_may_have_the_parameters_of_any_other_request(
    tmp_path: Path, registry: ModelRegistry, destinations: Destinations
) -> None:
    file = tmp_path / "routing.yml"
    file.write_text("rules: [{model: tiny, working_spacing: [1, 2, 2], seg_type: labelmap, output: nrrd}]")
    routing = read_routing(file, registry, destinations)
    assert routing is not None
    (rule,) = routing.rules
    asked = SegmentationParameters.from_texts({"working_spacing": "1,2,2", "seg_type": "labelmap", "output": "nrrd"})
    assert rule.options() == asked.options()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("rules: []", "there must be at least one rule"),
        ("rules: [{model: other}]", "no model 'other'"),
        ("rules: [{model: tiny, send_to: [nowhere]}]", "'nowhere'"),
        (
            "rules: [{model: tiny, match: {modalty: MR}}]",
            r"routing.yml: rules\.0\.match\.modalty: Extra inputs are not permitted$",
        ),
        ("rules: [{model: tiny, conditions: {field_strength_t: 3}}]", "field_strength_t"),
        ("rules: [{model: tiny, match: {series_description: '('}}]", "is not a valid regular expression"),
        ("rules: [{model: tiny, spacing: '1,1'}]", "spacing"),
        ("rules: [{model: tiny, working_spacing: [1, 0, 1]}]", "above 0"),
        ("rules: [{model: tiny, seg_type: fractional}]", "seg_type"),
        ("rules: [{model: tiny, callback_url: 'https://not.allowed/'}]", "not.allowed"),
        ("rules: [{model: tiny, series_uid: 1.2.3}]", "must not have series_uid"),
        ("rules: [{model: tiny, pacs: main, study_uid: 1.2.3, series_uid: 1.2.3}]", "must not have pacs"),
        ("rules: [", "line 1"),
    ],
)
def test_rules_that_cannot_work_are_refused_at_the_start(
    tmp_path: Path, registry: ModelRegistry, destinations: Destinations, text: str, named: str
) -> None:
    (tmp_path / "routing.yml").write_text(text)
    with pytest.raises(RoutingInvalid, match=named):
        read_routing(tmp_path / "routing.yml", registry, destinations)


@pytest.mark.parametrize(
    ("query", "holds"),
    [
        ("", True),
        ("PatientID=TEST-0", True),
        ("PatientID=TEST-1", False),
        ("PatientID=TEST*", True),
        ("PatientID=TEST-?", True),
        ("00100020=TEST-0", True),
        ("Modality=SEG", True),
        ("ModalitiesInStudy=SR", False),
        ("StudyInstanceUID=1.2,1.3", True),
        ("StudyDate=20260101-20260131", True),
        ("StudyDate=20260116-", False),
        ("PatientID=0-9", False),
        ("includefield=all&fuzzymatching=true&limit=5", True),
        ("accept=application/dicom%2Bjson&multiplevaluematching=true", True),
        ('emptyvaluematching=true&AccessionNumber=""', True),
        ('emptyvaluematching=true&PatientID=""', False),
        ('AccessionNumber=""', False),
        ("PatientName=Yamada^Tarou", True),
        ("PatientName=山田^太郎", True),
        ("PatientName=Yamada*太郎", True),
        ("PatientName=Yamada", False),
        ("PatientName=YAMADA*", True),
        ("PatientID=test-0", False),
        ("StudyInstanceUID=1.2%00", True),
        ("StudyInstanceUID=1.2%20", True),
        ("ModalitiesInStudy=SR&ModalitiesInStudy=SEG", True),
        ("ModalitiesInStudy=SEG&ModalitiesInStudy=SR", True),
        ("ModalitiesInStudy=MR&ModalitiesInStudy=SR", False),
        ("fuzzymatching=False&multiplevaluematching=TRUE", True),
    ],
)
def test_a_search_finds_what_it_asks_for(query: str, holds: bool) -> None:
    found = header(PatientID="TEST-0", Modality="SEG", StudyInstanceUID="1.2", StudyDate="20260115")
    found.SpecificCharacterSet, found.PatientName = "ISO_IR 192", "Yamada^Tarou=山田^太郎"
    assert Search.of(request(query), "studies").holds(dicom_json(found)) is holds


@pytest.mark.parametrize("query", ["PatientWeight=70", "limit=-1", "offset=x", "Rows=5", "fuzzymatching=1", "limit=٣"])
def test_what_cannot_be_searched_for_is_refused(query: str) -> None:
    with pytest.raises(MalformedRequest):
        Search.of(request(query), "studies")


def request(query: str) -> Request:
    return Request({"type": "http", "query_string": quote(query, safe=string.punctuation).encode(), "headers": []})
