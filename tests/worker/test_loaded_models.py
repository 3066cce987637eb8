"""A worker's models follow their folder: replaced ones are loaded, damaged ones refused, pinned ones kept."""

import os
import time
from pathlib import Path

import pytest
import torch
from prometheus_client.registry import REGISTRY
from pydantic import ValidationError
from redis import Redis

from unet_factory.domain.errors import ModelUnknown
from unet_factory.domain.jobs import GenerationRequest
from unet_factory.domain.manifest import Manifest
from unet_factory.domain.spacing import SnappedSpacing
from unet_factory.jobs.queue import NetworkOrders
from unet_factory.model.checkpoint import save_checkpoint
from unet_factory.model.hypernetwork import Hypernetwork
from unet_factory.platform.model_registry import LOOK_EVERY_S, ModelRegistry
from unet_factory.platform.shared_copies import SharedCopies
from unet_factory.platform.weight_cache import WeightCache
from unet_factory_worker.computing import Computing, GaveWay
from unet_factory_worker.factory import WeightFactory
from unet_factory_worker.loaded_models import LoadedModels
from unet_factory_worker.settings import WorkerSettings
from unet_factory_worker.warm_networks import WarmNetworks


def put(folder: Path, manifest: Manifest, seed: int) -> str:
    """Replace the model in the folder; returns its digest."""
    torch.manual_seed(seed)
    hypernetwork = Hypernetwork(manifest.architecture, manifest.hypernetwork, manifest.grid)
    return save_checkpoint(folder / f"{manifest.name}.safetensors", hypernetwork, manifest)


def loaded(folder: Path, shared: SharedCopies | None = None) -> LoadedModels:
    models = LoadedModels(ModelRegistry.scan(folder), torch.device("cpu"), shared)
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


def test_versions_are_ready_side_by_side_and_a_removed_one_is_kept_for_pinned_jobs_alone(
    tmp_path: Path, tiny_manifest: Manifest
) -> None:
    first = put(tmp_path, tiny_manifest, 1)
    (tmp_path / "tiny.safetensors").rename(tmp_path / "former.safetensors")
    second = put(tmp_path, tiny_manifest, 2)
    models = loaded(tmp_path)
    assert models.current() == {"tiny": second, f"tiny@{first[:12]}": first}
    assert models.get("tiny", first).digest == first
    for file in tmp_path.glob("*.safetensors"):
        file.unlink()
    time.sleep(LOOK_EVERY_S)
    models.refresh()
    assert models.current() == {}
    assert models.get("tiny", second).digest == second


@pytest.mark.parametrize("shares", [False, True])
def test_a_file_that_is_written_over_changes_no_weight_in_use(
    tmp_path: Path, tiny_manifest: Manifest, *, shares: bool
) -> None:
    """Weights mapped from it would change with it, or end the process once the file is shorter."""
    digest, file = put(tmp_path, tiny_manifest, 1), tmp_path / "tiny.safetensors"
    models = loaded(tmp_path, SharedCopies(tmp_path / "shared") if shares else None)
    before = models.get("tiny", digest).hypernetwork.generate(SnappedSpacing(1000, 1000, 1000))
    with file.open("r+b") as opened:
        opened.truncate(100)
    time.sleep(LOOK_EVERY_S)
    models.refresh()
    after = models.get("tiny", digest).hypernetwork.generate(SnappedSpacing(1000, 1000, 1000))
    assert models.current() == {"tiny": digest}
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="the system does not say what a process maps")
def test_workers_map_one_copy_that_goes_when_its_model_is_gone(tmp_path: Path, tiny_manifest: Manifest) -> None:
    """What two workers of one host map from one file is in its memory once."""
    digest, shared = put(tmp_path, tiny_manifest, 1), SharedCopies(tmp_path / "shared")
    one, other = loaded(tmp_path, shared), loaded(tmp_path, shared)
    (copy,) = (tmp_path / "shared").iterdir()
    assert Path("/proc/self/maps").read_text().count(f" {copy}\n") >= 2
    os.utime(copy, (0, 0))  # copies of the last minutes are spared
    newer = put(tmp_path, tiny_manifest, 2)
    time.sleep(LOOK_EVERY_S)
    one.refresh()
    assert [path.stem for path in (tmp_path / "shared").iterdir()] == [newer]
    networks = [
        models.get("tiny", digest).hypernetwork.generate(SnappedSpacing(1000, 1000, 1000)) for models in (one, other)
    ]
    assert all(torch.equal(networks[0][name], networks[1][name]) for name in networks[0])


def test_named_spacings_are_in_the_cache_before_anybody_asks_for_new_models_too(
    tmp_path: Path, tiny_manifest: Manifest, redis: Redis
) -> None:
    put(tmp_path, tiny_manifest, 1)
    models, cache, computing = loaded(tmp_path), WeightCache(redis), Computing()
    factory = WeightFactory(models.get, cache, NetworkOrders(redis), torch.device("cpu"), 4)
    spacings = WorkerSettings(warm_spacings="1,1,1; 0.1,1,9").warm_spacings_ras_mm
    warm = WarmNetworks(spacings, models, factory, computing)
    with computing.job(), pytest.raises(GaveWay):
        warm.run()
    warm.run()
    put(tmp_path, tiny_manifest.model_copy(update={"name": "other"}), 2)
    time.sleep(LOOK_EVERY_S)
    models.refresh()
    warm.run()
    for name, digest in models.current().items():
        for snapped in ((1000, 1000, 1000), (500, 1000, 3500)):
            wanted = GenerationRequest(model=name, checkpoint_digest=digest, snapped_um=snapped)
            assert cache.get(wanted) is not None
    with pytest.raises(ValidationError, match="1,2"):
        WorkerSettings(warm_spacings="1,1,1; 1,2")
