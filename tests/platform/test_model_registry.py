"""Which models there are, and which one answers those who name none."""

import hashlib
import os
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
    """Half of one that is still copied, and none at all; one that is there twice counts once."""
    whole = (tiny_models / "tiny.safetensors").read_bytes()
    (tmp_path / "a-good.safetensors").write_bytes(whole)
    (tmp_path / "half.safetensors").write_bytes(whole[: len(whole) * 2 // 3])
    (tmp_path / "none.safetensors").write_bytes(b"not a checkpoint")
    (tmp_path / "twice.safetensors").write_bytes(whole)
    registry = ModelRegistry.scan(tmp_path)
    assert len(registry.versions()) == 1
    for refused in ("half.safetensors", "none.safetensors"):
        assert refused in caplog.text
    assert REGISTRY.get_sample_value("unet_factory_models_refused") == 2
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


def version(whole: bytes, number: int) -> bytes:
    """The checkpoint with other bits in its last weight."""
    return whole[:-1] + bytes([number])


def test_the_name_means_the_version_written_last_and_each_is_found_by_its_digest(
    tmp_path: Path, tiny_models: Path
) -> None:
    whole = (tiny_models / "tiny.safetensors").read_bytes()
    digests = []
    for age_s, file in enumerate(("b", "c", "a")):
        path = tmp_path / f"{file}.safetensors"
        path.write_bytes(version(whole, age_s))
        os.utime(path, (1000 + age_s, 1000 + age_s))
        digests.append(hashlib.sha256(path.read_bytes()).hexdigest())
    registry = ModelRegistry.scan(tmp_path)
    assert [model.digest for model in registry.versions("tiny")] == digests
    assert [model.digest for model in registry.all()] == [registry.get("tiny").digest] == [digests[-1]]
    for digest in digests:
        assert registry.get(f"tiny@{digest}").digest == registry.get(f"tiny@{digest[:12]}").digest == digest
    for unknown in ("0" * 12, digests[0][:11], "", digests[0] + "0"):
        with pytest.raises(ModelUnknown, match="no version") as raised:
            registry.get(f"tiny@{unknown}")
        assert raised.value.details["available"] == [f"tiny@{digest[:12]}" for digest in digests]


def test_a_file_that_is_damaged_in_place_is_refused_and_its_former_version_served(
    tmp_path: Path, tiny_models: Path
) -> None:
    whole, file = (tiny_models / "tiny.safetensors").read_bytes(), tmp_path / "tiny.safetensors"
    file.write_bytes(whole)
    registry = ModelRegistry.scan(tmp_path)
    served = registry.get()
    for damaged in (whole[: len(whole) // 2], version(whole, 7)[:-1]):
        file.write_bytes(damaged)
        settled(file)
        registry.look_again()
        assert registry.get() == served
        assert registry.refused().keys() == {"tiny.safetensors"}
    file.write_bytes(version(whole, 7))
    registry.look_again()
    assert registry.get() == served, "it may still be half old"
    settled(file)
    registry.look_again()
    assert registry.get().digest == hashlib.sha256(version(whole, 7)).hexdigest()
    registry.refuse(registry.get(), "its weights do not fit")
    assert registry.get() == served
    file.unlink()
    registry.look_again()
    with pytest.raises(ModelUnknown):
        registry.get()


def settled(file: Path) -> None:
    """As if it had been written to a while ago."""
    past_s = time.time() - 10
    os.utime(file, (past_s, past_s))


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
