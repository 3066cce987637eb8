"""Which models there are, and which one answers those who name none."""

import shutil
from pathlib import Path

import pytest

from unet_factory.domain.errors import CheckpointInvalid, ModelUnknown
from unet_factory.platform.model_registry import DEFAULT_FILE, ModelRegistry

PROJECT_MODELS = Path(__file__).parents[2] / "models"


def test_a_model_that_is_dropped_in_does_not_become_the_default() -> None:
    registry = ModelRegistry.scan(PROJECT_MODELS)
    assert registry.get().manifest.name == (PROJECT_MODELS / DEFAULT_FILE).read_text().strip()
    assert {model.manifest.name for model in registry.all()} == {path.stem for path in PROJECT_MODELS.glob("*.saf*")}


def test_a_default_that_is_not_there_and_a_name_given_twice_are_refused(tmp_path: Path, tiny_models: Path) -> None:
    (source,) = tiny_models.glob("*.safetensors")
    shutil.copy(source, tmp_path / "one.safetensors")
    assert ModelRegistry.scan(tmp_path).get().path.name == "one.safetensors"
    (tmp_path / DEFAULT_FILE).write_text("nobody\n")
    with pytest.raises(ModelUnknown, match="'nobody'"):
        ModelRegistry.scan(tmp_path)
    (tmp_path / DEFAULT_FILE).unlink()
    shutil.copy(source, tmp_path / "two.safetensors")
    with pytest.raises(CheckpointInvalid, match=r"one\.safetensors and two\.safetensors"):
        ModelRegistry.scan(tmp_path)
