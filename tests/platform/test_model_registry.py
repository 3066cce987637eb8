"""Which models there are, and which one answers those who name none."""

import hashlib
import shutil
import time
from pathlib import Path

import pytest
from prometheus_client.registry import REGISTRY

from tests.fixtures.project import MODELS
from unet_factory.domain.errors import ModelUnknown
from unet_factory.platform.model_registry import DEFAULT_FILE, LOOK_EVERY_S, ModelRegistry


def test_a_model_that_is_dropped_in_does_not_become_the_default() -> None:
    registry = ModelRegistry.scan(MODELS)
    assert registry.get().manifest.name == (MODELS / DEFAULT_FILE).read_text().strip()
    assert {model.manifest.name for model in registry.all()} == {path.stem for path in MODELS.glob("*.saf*")}


def test_a_default_that_is_not_there_is_refused(tmp_path: Path, tiny_models: Path) -> None:
    shutil.copy(tiny_models / "tiny.safetensors", tmp_path / "one.safetensors")
    assert ModelRegistry.scan(tmp_path).get().path.name == "one.safetensors"
    (tmp_path / DEFAULT_FILE).write_text("nobody\n")
    with pytest.raises(ModelUnknown, match="'nobody'"):
        ModelRegistry.scan(tmp_path)


def test_a_file_that_cannot_be_used_is_refused_by_name_and_harms_no_other(
    tmp_path: Path, tiny_models: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Half of one that is still copied, none at all, and one whose name is taken."""
    whole = (tiny_models / "tiny.safetensors").read_bytes()
    (tmp_path / "a-good.safetensors").write_bytes(whole)
    (tmp_path / "half.safetensors").write_bytes(whole[: len(whole) * 2 // 3])
    (tmp_path / "none.safetensors").write_bytes(b"not a checkpoint")
    (tmp_path / "twice.safetensors").write_bytes(whole)
    registry = ModelRegistry.scan(tmp_path)
    assert [model.path.name for model in registry.all()] == ["a-good.safetensors"]
    for refused in ("half.safetensors", "none.safetensors", "a-good.safetensors and twice.safetensors"):
        assert refused in caplog.text
    assert REGISTRY.get_sample_value("unet_factory_models_refused") == 3
    with pytest.raises(ModelUnknown, match=r"half\.safetensors: the file has \d+ bytes"):
        registry.get("other")


def test_a_replaced_file_is_noticed(tmp_path: Path, tiny_models: Path) -> None:
    file = tmp_path / "tiny.safetensors"
    whole = (tiny_models / "tiny.safetensors").read_bytes()
    file.write_bytes(whole)
    registry = ModelRegistry.scan(tmp_path)
    before = registry.get().digest
    changed = bytearray(whole)
    changed[-1] ^= 1
    (tmp_path / "new").write_bytes(changed)
    (tmp_path / "new").rename(file)
    time.sleep(LOOK_EVERY_S)
    assert registry.get().digest == hashlib.sha256(changed).hexdigest() != before
    file.unlink()
    time.sleep(LOOK_EVERY_S)
    with pytest.raises(ModelUnknown):
        registry.get()


def install(site: Path, name: str, model: Path, default: str = "") -> None:
    """A package with a model, as a wheel would lay it down."""
    package, info = site / f"model_{name}", site / f"model_{name}-1.dist-info"
    for folder in (package, info):
        folder.mkdir(parents=True)
    (package / "__init__.py").touch()
    shutil.copy(model, package / f"{name}.safetensors")
    if default:
        (package / DEFAULT_FILE).write_text(default)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: model-{name}\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[unet_factory.models]\n{name} = model_{name}\n")


def test_models_are_found_in_packages_and_the_folders_own_comes_first(
    tmp_path: Path, tiny_models: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    site, own = tmp_path / "site", tmp_path / "own"
    install(site, "heart", MODELS / "heart-mr.safetensors")
    install(site, "lumbar", MODELS / "lumbar-mr.safetensors", default="lumbar-mr")
    install(site, "broken", tiny_models / "tiny.safetensors")
    shutil.rmtree(site / "model_broken")
    monkeypatch.syspath_prepend(site)
    registry = ModelRegistry.scan(own)
    assert {model.manifest.name for model in registry.all()} == {"heart-mr", "lumbar-mr"}
    assert registry.get().manifest.name == "lumbar-mr", "as the package says"
    assert "model_broken" in caplog.text
    own.mkdir()
    shutil.copy(tiny_models / "tiny.safetensors", own)
    assert ModelRegistry.scan(own).get().manifest.name == "tiny"
    shutil.copy(MODELS / "heart-mr.safetensors", own / "mine.safetensors")
    assert ModelRegistry.scan(own).get("heart-mr").path == own / "mine.safetensors"
