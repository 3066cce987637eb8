"""What the gateway says of itself: models, health, metrics; and how light it is."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.fixtures.settings import FactorySettings
from tests.fixtures.volume_files import write_nifti
from unet_factory.domain.errors import CheckpointInvalid, ModelUnknown
from unet_factory.domain.manifest import Manifest
from unet_factory_service.app import create_app

START = """
import asyncio, sys
from pathlib import Path
from unet_factory_service.settings import GatewaySettings
from unet_factory_service.app import create_app

async def start():
    app = create_app(GatewaySettings(redis_url="unix:///nowhere", blob_url=sys.argv[1], models_dir=Path(sys.argv[2])))
    async with app.router.lifespan_context(app):
        print(*(name for name in ("torch", "monai", "SimpleITK") if name in sys.modules))

asyncio.run(start())
"""


def test_the_gateway_starts_without_what_takes_long_to_import(settings: FactorySettings, tmp_path: Path) -> None:
    command = [sys.executable, "-c", START, (tmp_path / "blobs").as_uri(), str(settings.models_dir)]
    assert subprocess.check_output(command, text=True, timeout=60).split() == []


def test_a_bad_model_folder_is_said_at_the_start(settings: FactorySettings, tmp_path: Path) -> None:
    with pytest.raises(ModelUnknown, match=r"'other'.*tiny"):
        create_app(settings.model_copy(update={"default_model": "other"}))
    (tmp_path / "broken.safetensors").write_bytes(b"no checkpoint")
    with pytest.raises(CheckpointInvalid, match=r"broken\.safetensors"):
        create_app(settings.model_copy(update={"models_dir": tmp_path}))


def test_models_are_described_by_their_manifests(http: httpx.Client, tiny_manifest: Manifest, digest: str) -> None:
    (model,) = http.get("/models").json()
    assert http.get("/models/tiny").json() == model
    assert model["name"] == "tiny"
    assert model["digest"] == digest
    assert model["default"] is True
    assert model["trained_range_mm"] == [[0.5, 3.5]] * 3
    assert model["grid_step_mm"] == 0.05
    assert model["orientation"] == "RAS"
    assert model["normalisation"] == {"method": "zscore"}
    assert [label["name"] for label in model["labels"]] == ["background", "anterior", "posterior"]
    assert model["architecture"] == tiny_manifest.architecture.model_dump(mode="json")
    assert {"metrics", "licence", "card"} <= model.keys()


@pytest.mark.parametrize("path", ["/livez", "/v2/health/live"])
def test_alive_is_alive_without_a_worker(http: httpx.Client, path: str) -> None:
    assert http.get(path).json() == {"live": True}


@pytest.mark.parametrize("path", ["/readyz", "/v2/health/ready"])
def test_ready_needs_a_worker_with_the_default_model(
    http: httpx.Client, path: str, request: pytest.FixtureRequest
) -> None:
    answer = http.get(path)
    assert answer.status_code == 503
    assert answer.json()["missing"] == ["a worker with the model tiny"]
    request.getfixturevalue("worker_present")
    assert http.get(path).json() == {"ready": True}


def test_metrics_count_requests_by_route_and_queues_by_message(http: httpx.Client, tmp_path: Path) -> None:
    before = _samples(http)
    job_path = http.post(
        "/segmentations", files={"file": ("x", write_nifti(tmp_path / "s.nii.gz").read_bytes())}
    ).headers["Location"]
    http.get(job_path)
    http.get("/nothing/but/a/path")
    http.request("BREW", "/livez")
    http.get("/unet?spacing=9,9,9")
    samples = _samples(http)

    def grown(name: str, *labels: str) -> float:
        return samples[name, labels] - before.get((name, labels), 0)

    seconds = "unet_factory_http_request_duration_seconds_count"
    assert grown(seconds, "POST", "/segmentations", "202") == 1
    assert grown(seconds, "GET", "/segmentations/{job_id}", "200") == 1
    assert grown(seconds, "GET", "unmatched", "404") == 1
    assert grown(seconds, "OTHER", "/livez", "405") == 1
    assert grown("unet_factory_spacing_out_of_range_total", "tiny") == 1
    assert samples["unet_factory_queue_depth", ("segmentations",)] == 1
    assert samples["unet_factory_queue_depth", ("weights",)] == samples["unet_factory_queue_depth", ("windows",)] == 0
    assert 0 < samples["unet_factory_disk_free_bytes", ()] < samples["unet_factory_disk_capacity_bytes", ()]


def _samples(http: httpx.Client) -> dict[tuple[str, tuple[str, ...]], float]:
    """Value by (name, label values); buckets left out."""

    def samples() -> Iterator[tuple[tuple[str, tuple[str, ...]], float]]:
        for family in text_string_to_metric_families(http.get("/metrics").text):
            for sample in family.samples:
                if not sample.name.endswith("_bucket"):
                    yield (sample.name, tuple(sample.labels.values())), sample.value

    return dict(samples())
