"""A scan unlike the model's training is noticed at its submission, and told on every way out."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import yaml
from prometheus_client.registry import REGISTRY
from redis import Redis
from typer.testing import CliRunner

from tests.fixtures.dicom_files import mr_series
from tests.fixtures.judged_models import judged, seen, span
from tests.fixtures.settings import FactorySettings
from tests.service.conftest import Gateway, RunGateway, Snapshot, poll
from tests.service.dicomweb.test_dicomweb_store import await_jobs, ended, post
from unet_factory.domain.jobs import JobState
from unet_factory.domain.plausibility import Seen
from unet_factory.platform.model_registry import ModelRegistry
from unet_factory_cli.commands import app
from unet_factory_cli.embedded import JOBS_OPTIONS, EmbeddedServer

PROBLEM = "urn:unet-factory:problem:implausible"
ANY_ML, IMPOSSIBLE_ML = span(0, 1e6), span(2e5, 6e5)
FIELD_OF_VIEW_MM = span(12, 40)  # with the margin of 2: 6 to 80 mm
TOO_WIDE = {"what": "field_of_view_mm", "label": None, "axis": "R", "value": 90.0, "expected": [6.0, 80.0]}


@pytest.fixture
def what() -> Seen:
    return seen(ANY_ML, FIELD_OF_VIEW_MM)


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """The gateway that other tests share has other models and rules; it must not take these tests' series."""
    server = EmbeddedServer.start(tmp_path_factory.mktemp("redis"), JOBS_OPTIONS)
    yield server
    server.stop()


@pytest.fixture
def redis(own_server: EmbeddedServer) -> Iterator[Redis]:
    with Redis.from_url(own_server.redis_url) as client:
        client.flushall()
        yield client


@pytest.fixture
def settings(
    shared_settings: FactorySettings,
    own_server: EmbeddedServer,
    redis: Redis,
    tiny_models: Path,
    tmp_path: Path,
    what: Seen,
) -> FactorySettings:
    own = {"redis_url": own_server.redis_url, "blob_url": (tmp_path / "blobs").as_uri(), "series_quiet_s": 0.5}
    return shared_settings.model_copy(update=own | {"models_dir": judged(tiny_models, tmp_path / "judged", what)})


@pytest.fixture
def gateway(settings: FactorySettings, run_gateway: RunGateway) -> Any:
    with run_gateway(settings) as gateway:
        yield gateway


@pytest.fixture
def digest(settings: FactorySettings) -> str:
    return ModelRegistry.scan(settings.models_dir).get().digest


def scan(folder: Path, r: int = 20) -> Path:
    """Noise of 1 mm, ``r`` mm wide."""
    voxels = np.random.default_rng(0).normal(size=(r, 16, 12)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), folder / "scan.nii")
    return folder / "scan.nii"


def send(gateway: Gateway, file: Path, **form: str) -> Any:
    return gateway.http.post("/segmentations", files={"file": ("scan", file.read_bytes())}, data=form)


def counted() -> float:
    return REGISTRY.get_sample_value("unet_factory_implausible_results_total", {"model": "tiny"}) or 0.0


def test_a_refused_scan_is_told_why_and_leaves_nothing(gateway: Gateway, tmp_path: Path, snapshot: Snapshot) -> None:
    before, count = snapshot(), counted()
    answer = send(gateway, scan(tmp_path, 90), implausible="reject")
    assert (answer.status_code, answer.json()["type"]) == (422, PROBLEM)
    assert answer.json()["implausible"] == [TOO_WIDE]
    assert "field of view along R is 90 mm, expected 6 to 80 mm" in answer.json()["detail"]
    assert snapshot() == before
    assert counted() == count + 1
    assert send(gateway, scan(tmp_path), implausible="reject").status_code == 202


def test_by_default_the_job_says_so_at_once(gateway: Gateway, tmp_path: Path) -> None:
    answer = send(gateway, scan(tmp_path, 90))
    assert answer.status_code == 202
    assert answer.json()["implausible"] == [TOO_WIDE]
    assert gateway.http.get(answer.headers["Location"]).json()["implausible"] == [TOO_WIDE]
    assert send(gateway, scan(tmp_path)).json()["implausible"] == []


def test_models_say_what_they_saw(gateway: Gateway, what: Seen) -> None:
    assert Seen.model_validate(gateway.http.get("/models/tiny").json()["seen"]) == what


@pytest.mark.parametrize("what", [seen(IMPOSSIBLE_ML, FIELD_OF_VIEW_MM)])
def test_a_job_that_fails_of_its_volumes_is_a_422(gateway: Gateway, worker: None, tmp_path: Path) -> None:
    location = send(gateway, scan(tmp_path), implausible="reject").headers["Location"]
    poll(lambda: gateway.http.get(location).json()["state"] == "failed")
    answer = gateway.http.get(f"{location}/labelmap")
    assert (answer.status_code, answer.json()["type"]) == (422, PROBLEM)
    assert answer.json()["implausible"][0]["expected"] == [1e5, 1.2e6]


@pytest.mark.parametrize("what", [seen(IMPOSSIBLE_ML, FIELD_OF_VIEW_MM)])
def test_the_command_line_warns_once_of_each(gateway: Gateway, worker: None, tmp_path: Path) -> None:
    command = ["segment", str(scan(tmp_path, 90)), "-o", str(tmp_path / "x.nii.gz"), "--url", gateway.url]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    first, second = (line for line in done.stderr.splitlines() if line.startswith("WARNING"))
    assert "field of view along R is 90 mm, expected 6 to 80 mm" in first
    assert "volume of anterior" in second
    assert done.stderr.index(first) < done.stderr.index(second) < done.stderr.index("segmented")
    refused = CliRunner().invoke(app, [*command, "--implausible", "reject"])
    assert refused.exit_code == 1
    assert "expected 6 to 80 mm" in refused.stderr


def test_the_command_line_does_not_warn_of_what_is_plausible(gateway: Gateway, worker: None, tmp_path: Path) -> None:
    command = ["segment", str(scan(tmp_path)), "-o", str(tmp_path / "x.nii.gz"), "--url", gateway.url]
    assert "WARNING" not in CliRunner().invoke(app, command).stderr


@pytest.mark.parametrize("policy", ["reject", "withhold"])
def test_a_rule_says_what_follows(
    settings: FactorySettings, run_gateway: RunGateway, worker: None, redis: Redis, tmp_path: Path, policy: str
) -> None:
    rule = {"match": {"modality": "MR"}, "model": "tiny", "implausible": policy}
    (tmp_path / "routing.yml").write_text(yaml.safe_dump({"rules": [rule]}))
    too_wide, plausible = mr_series(extent=90), mr_series()
    refused = {"outcome": "refused"}
    before = REGISTRY.get_sample_value("unet_factory_received_series_total", refused) or 0.0
    with run_gateway(settings.model_copy(update={"routing": tmp_path / "routing.yml"})) as gateway:
        post(gateway, plausible)
        (job,) = await_jobs(gateway, redis, 1)
        assert ended(gateway, job).state is JobState.SUCCEEDED
        post(gateway, too_wide)
        if policy == "reject":
            poll(lambda: REGISTRY.get_sample_value("unet_factory_received_series_total", refused) == before + 1)
        else:
            (other,) = (one for one in await_jobs(gateway, redis, 2) if one.id != job.id)
            assert [finding.axis for finding in ended(gateway, other).implausible] == ["R", "A"]
