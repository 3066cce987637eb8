"""The same request by form, by query, by client and by command line is the same to the worker."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from redis import Redis
from typer.testing import CliRunner

from tests.fixtures.project import PROJECT
from tests.fixtures.settings import FactorySettings
from tests.fixtures.volume_files import write_nifti
from tests.service.conftest import Gateway, RunGateway
from unet_factory.domain.jobs import Origin, SegmentationRequest
from unet_factory.domain.segmentation_parameters import PARAMETERS, SegmentationParameters
from unet_factory.jobs.store import JobStore
from unet_factory_cli.commands import app
from unet_factory_client import FactoryClient
from unet_factory_service.segmentations.documentation import SEGMENTATION_BODY

RESULT_FILES = {"-o": ".nii.gz", "--preview": ".png", "--statistics": ".json"}
DESTINATIONS = {
    "pacs": {"main": {"dicomweb": {"url": "http://127.0.0.1:9"}}},
    "webhooks": {"allow": ["hooks.example.org"], "secrets": [{"env": "NOT_KNOWN_TO_THE_GATEWAY"}]},
}
ASKED = {"model": "tiny", "preview": "true", "working_spacing": "2,2,2.5", "outside": "extrapolate", "output": "nrrd"}
ARCHIVED = {
    **{"pacs": "main", "study_uid": "1.2.840.99", "series_uid": "1.2.840.99.1", "send_to": "main"},
    **{"callback_url": "https://hooks.example.org/x", "seg_type": "labelmap"},
}


@pytest.fixture
def connected(run_gateway: RunGateway, settings: FactorySettings, tmp_path: Path) -> Iterator[Gateway]:
    """A gateway with destinations."""
    file = tmp_path / "destinations.yml"
    file.write_text(yaml.safe_dump(DESTINATIONS))
    with run_gateway(settings.model_copy(update={"destinations": file})) as gateway:
        yield gateway


def request_of(redis: Redis, job_id: str) -> SegmentationRequest:
    """But for which HTTP request it came from."""
    return JobStore(redis).request(job_id).model_copy(update={"origin": Origin()})


def jobs_of(redis: Redis) -> set[str]:
    found: Any = redis.zrange("jobs:expiry", 0, -1)
    return {raw.decode() for raw in found}


def test_form_client_and_command_line_ask_the_same(
    gateway: Gateway, redis: Redis, worker: None, tmp_path: Path
) -> None:
    scan = write_nifti(tmp_path / "scan.nii.gz")
    form = {name: (None, text) for name, text in ASKED.items()}
    posted = gateway.http.post("/segmentations", files={**form, "file": ("scan", scan.read_bytes())})
    asked = request_of(redis, posted.json()["id"])
    assert asked.options() == SegmentationParameters.from_texts(ASKED).options()
    with FactoryClient(gateway.url) as client:
        job = client.submit(scan, SegmentationParameters.from_texts(ASKED))
    assert request_of(redis, job.id) == asked
    before = jobs_of(redis)
    options = [
        f"--{name.replace('_', '-')}={text}" for name, text in ASKED.items() if name not in ("output", "preview")
    ]
    results = ["-o", str(tmp_path / "x.nrrd"), "--preview", str(tmp_path / "x.png")]
    command = ["segment", str(scan), *results, "--url", gateway.url, *options]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    (job_id,) = jobs_of(redis) - before
    assert request_of(redis, job_id) == asked
    assert (tmp_path / "x.nrrd").read_bytes().startswith(b"NRRD")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_without_a_server_the_results_are_the_same_bytes(
    gateway: Gateway, worker: None, settings: FactorySettings, tmp_path: Path
) -> None:
    scan = str(PROJECT / "examples" / "hippocampus" / "images" / "hippocampus_017.nii.gz")
    models = str(settings.models_dir)
    ways = {"served": ["--url", gateway.url], "local": ["--local", "--models", models, "--precision", "float32"]}
    for way, options in ways.items():
        for name, asked in (("native", []), ("coarse", ["--working-spacing=1,1.5,2"])):
            files = {option: str(tmp_path / f"{way}-{name}{end}") for option, end in RESULT_FILES.items()}
            command = ["segment", scan, *(word for pair in files.items() for word in pair), *options, *asked]
            done = CliRunner().invoke(app, command)
            assert done.exit_code == 0, done.output
            assert " by tiny in " in done.stderr
    for name in ("native", "coarse"):
        for end in (".nii.gz", ".png"):
            served, local = ((tmp_path / f"{way}-{name}{end}").read_bytes() for way in ways)
            assert served == local
        served_found, local_found = (json.loads((tmp_path / f"{way}-{name}.json").read_text())[0] for way in ways)
        differ = {key for key in served_found if served_found[key] != local_found[key]}
        assert differ <= {"output", "timings_s", "device"}


def test_the_client_can_ask_for_a_series_in_an_archive(connected: Gateway, redis: Redis) -> None:
    posted = connected.http.post("/segmentations", files={name: (None, text) for name, text in ARCHIVED.items()})
    assert posted.status_code == 202, posted.text
    with FactoryClient(connected.url) as client:
        job = client.submit(None, SegmentationParameters.from_texts(ARCHIVED))
    asked = request_of(redis, job.id)
    assert asked == request_of(redis, posted.json()["id"])
    assert (asked.seg_type, asked.send_to, asked.callback_url) == ("labelmap", ("main",), ARCHIVED["callback_url"])


def test_openapi_lists_every_parameter() -> None:
    form = SEGMENTATION_BODY["requestBody"]["content"]["multipart/form-data"]["schema"]["properties"]
    assert set(form) == {"file", *PARAMETERS}
    for name, schema in form.items():
        assert schema["type"] in ("string", "boolean", "number", "integer"), name
        assert schema["description"]
        if "default" in schema and "enum" in schema:
            assert schema["default"] in schema["enum"]
    in_url = {parameter["name"] for parameter in SEGMENTATION_BODY["parameters"]}
    assert in_url == set(PARAMETERS) - {"callback_url", "send_to", "pacs", "study_uid", "series_uid"}
