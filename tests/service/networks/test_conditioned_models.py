"""A model whose networks depend on more than the spacing, over HTTP."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import torch
from redis import Redis

from tests.fixtures.settings import FactorySettings
from tests.fixtures.volume_files import write_nifti
from tests.service.conftest import Gateway, RunGateway
from unet_factory.destinations import Destinations
from unet_factory.domain.conditions import Condition
from unet_factory.domain.errors import RoutingInvalid
from unet_factory.domain.manifest import Manifest
from unet_factory.domain.spacing import SnappedSpacing
from unet_factory.model.checkpoint import load_checkpoint, save_checkpoint, standalone_bytes
from unet_factory.model.hypernetwork import Hypernetwork
from unet_factory.platform.manifest_file import read_standalone_manifest
from unet_factory.platform.model_registry import ModelRegistry
from unet_factory_client import FactoryClient, FactoryProblem, SegmentationParameters
from unet_factory_service.dicomweb.routing import read_routing

FIELD = Condition(name="field_strength_t", minimum=0.5, maximum=3, step=0.5, default=1.5)


@pytest.fixture(scope="module")
def conditioned_models(tmp_path_factory: pytest.TempPathFactory, tiny_manifest: Manifest) -> Path:
    """Weights that differ a lot with the condition."""
    torch.manual_seed(0)
    folder, manifest = tmp_path_factory.mktemp("conditioned"), tiny_manifest.model_copy(update={"conditions": (FIELD,)})
    hypernetwork = Hypernetwork(manifest.architecture, manifest.hypernetwork, manifest.grid, manifest.conditions)
    with torch.no_grad():
        hypernetwork.heads.normal_(std=0.5)
        for name, parameter in hypernetwork.named_parameters():
            if name.startswith("hidden"):
                parameter.normal_(std=1)
    save_checkpoint(folder / "tiny.safetensors", hypernetwork, manifest)
    return folder


@pytest.fixture
def settings(shared_settings: FactorySettings, redis: Redis, conditioned_models: Path) -> FactorySettings:
    return shared_settings.model_copy(update={"models_dir": conditioned_models})


@pytest.fixture
def gateway(settings: FactorySettings, run_gateway: RunGateway) -> Iterator[Gateway]:
    with run_gateway(settings) as gateway:
        yield gateway


def test_a_network_is_made_for_the_conditions_asked_for(
    http: httpx.Client, worker: None, conditioned_models: Path
) -> None:
    checkpoint = load_checkpoint(conditioned_models / "tiny.safetensors")
    strong = http.get("/unet", params={"spacing": "1,1,1", "conditions": "field_strength_t=2.9"})
    assert strong.status_code == 200, strong.text
    assert strong.headers["X-Conditions"] == "field_strength_t=3"
    assert "field_strength_t-3" in strong.headers["Content-Disposition"]
    at = SnappedSpacing(1000, 1000, 1000)
    assert strong.content == standalone_bytes(checkpoint, at, conditions=(3.0,))
    assert read_standalone_manifest(strong.content).conditions == {"field_strength_t": 3.0}
    default = http.get("/unet", params={"spacing": "1,1,1"})
    assert default.headers["X-Conditions"] == "field_strength_t=1.5"
    assert default.content == standalone_bytes(checkpoint, at) != strong.content


@pytest.mark.parametrize("conditions", ["field_strength_t=7", "echo_time_ms=30", "field_strength_t", "=,"])
def test_what_the_model_does_not_know_is_refused(http: httpx.Client, tmp_path: Path, conditions: str) -> None:
    scan = write_nifti(tmp_path / "scan.nii.gz").read_bytes()
    answers = [
        http.get("/unet", params={"spacing": "1,1,1", "conditions": conditions}),
        http.post("/segmentations", files={"file": ("scan", scan)}, data={"conditions": conditions}),
    ]
    for answer in answers:
        assert answer.status_code == 422, answer.text
        assert answer.json()["type"] == "urn:unet-factory:problem:condition-invalid"


def test_a_rule_for_received_series_may_state_conditions(settings: FactorySettings, tmp_path: Path) -> None:
    registry, file = ModelRegistry.scan(settings.models_dir), tmp_path / "routing.yml"
    file.write_text("rules: [{model: tiny, conditions: {field_strength_t: 3}}]")
    routing = read_routing(file, registry, Destinations())
    assert routing is not None
    assert routing.rules[0].conditions == {FIELD.name: 3.0}
    file.write_text("rules: [{model: tiny, conditions: {field_strength_t: 7}}]")
    with pytest.raises(RoutingInvalid, match="must be in"):
        read_routing(file, registry, Destinations())


def test_a_scan_is_segmented_under_its_conditions(gateway: Gateway, worker: None, tmp_path: Path) -> None:
    scan = write_nifti(tmp_path / "scan.nii.gz")
    with FactoryClient(gateway.url) as client:
        (model,) = client.models()
        assert model.conditions == (FIELD,)
        weak, strong, default = (
            client.segment(scan, tmp_path / f"{name}.nii.gz", SegmentationParameters(conditions=given))
            for name, given in (("weak", {FIELD.name: 0.5}), ("strong", {FIELD.name: 3.0}), ("default", {}))
        )
        with pytest.raises(FactoryProblem, match="must be in"):
            client.submit(scan, SegmentationParameters(conditions={FIELD.name: 9.0}))
    assert (weak.conditions, default.conditions) == ({FIELD.name: 0.5}, {FIELD.name: 1.5})
    assert weak.volumes_ml != strong.volumes_ml
