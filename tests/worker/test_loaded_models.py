"""A worker's models follow their folder: replaced ones are loaded, damaged ones refused, pinned ones kept."""

import time
from pathlib import Path

import pytest
import torch
from prometheus_client.registry import REGISTRY

from unet_factory.domain.errors import ModelUnknown
from unet_factory.domain.manifest import Manifest
from unet_factory.model.checkpoint import save_checkpoint
from unet_factory.model.hypernetwork import Hypernetwork
from unet_factory.platform.model_registry import LOOK_EVERY_S, ModelRegistry
from unet_factory_worker.loaded_models import LoadedModels


def put(folder: Path, manifest: Manifest, seed: int) -> str:
    """Replace the model in the folder; returns its digest."""
    torch.manual_seed(seed)
    hypernetwork = Hypernetwork(manifest.architecture, manifest.hypernetwork, manifest.grid)
    return save_checkpoint(folder / f"{manifest.name}.safetensors", hypernetwork, manifest)


def loaded(folder: Path) -> LoadedModels:
    models = LoadedModels(ModelRegistry.scan(folder), torch.device("cpu"))
    models.refresh()
    return models


def test_a_replaced_model_is_loaded_when_it_is_asked_for_and_the_old_one_is_kept(
    tmp_path: Path, tiny_manifest: Manifest
) -> None:
    first = put(tmp_path, tiny_manifest, 1)
    models = loaded(tmp_path)
    second = put(tmp_path, tiny_manifest, 2)
    assert models.get("tiny", second).digest == second
    assert models.get("tiny", first).digest == first, "jobs that were pinned to it still wait"
    assert models.current() == {"tiny": second}
    with pytest.raises(ModelUnknown, match="was replaced or removed"):
        loaded(tmp_path).get("tiny", first)


def test_a_damaged_file_keeps_no_other_from_being_loaded(
    tmp_path: Path, tiny_manifest: Manifest, caplog: pytest.LogCaptureFixture
) -> None:
    put(tmp_path, tiny_manifest, 1)
    other = tiny_manifest.model_copy(update={"name": "other"})
    put(tmp_path, other, 2)
    whole = (tmp_path / "other.safetensors").read_bytes()
    (tmp_path / "other.safetensors").write_bytes(whole[: len(whole) // 2])
    assert loaded(tmp_path).current().keys() == {"tiny"}
    assert "other.safetensors" in caplog.text


def test_a_file_whose_weights_fit_no_manifest_stays_refused_until_it_is_replaced(
    tmp_path: Path, tiny_manifest: Manifest, caplog: pytest.LogCaptureFixture
) -> None:
    """Its header is sound, so only loading it tells."""
    put(tmp_path, tiny_manifest, 1)
    wider = tiny_manifest.architecture.model_copy(update={"channels": (4, 16)})
    hypernetwork = Hypernetwork(tiny_manifest.architecture, tiny_manifest.hypernetwork, tiny_manifest.grid)
    other = tiny_manifest.model_copy(update={"name": "other", "architecture": wider})
    save_checkpoint(tmp_path / "other.safetensors", hypernetwork, other)
    models = loaded(tmp_path)
    for _ in range(2):
        assert models.current().keys() == {"tiny"}
        assert REGISTRY.get_sample_value("unet_factory_models_refused") == 1
        time.sleep(LOOK_EVERY_S)
        models.refresh()
    assert caplog.text.count("other.safetensors is refused") == 1
    put(tmp_path, tiny_manifest.model_copy(update={"name": "other"}), 2)
    time.sleep(LOOK_EVERY_S)
    models.refresh()
    assert models.current().keys() == {"tiny", "other"}
    assert REGISTRY.get_sample_value("unet_factory_models_refused") == 0
