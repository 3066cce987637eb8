"""Variants of a configuration as dotted names: set whole, validated like the file itself."""

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from unet_factory.domain.manifest import Pooling
from unet_factory_training.config import TrainingConfig, read_config
from unet_factory_training.overrides import overridden, parse_overrides


@pytest.fixture
def config_path(config: TrainingConfig, tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return path


def test_only_the_named_values_change(config: TrainingConfig, config_path: Path) -> None:
    overrides = parse_overrides(["optimisation.iterations=7", "architecture.pooling={anisotropy: 2}", "seed=3"])
    changed = read_config(config_path, overrides)
    assert changed.optimisation == config.optimisation.model_copy(update={"iterations": 7})
    assert changed.architecture.pooling == Pooling(anisotropy=2)
    assert changed.seed == 3
    untouched = {"optimisation", "architecture", "seed"}
    assert changed.model_dump(exclude=untouched) == config.model_dump(exclude=untouched)


def test_a_value_is_replaced_whole_and_the_original_stays() -> None:
    values = {"pooling": {"anisotropy": 2, "coarsest_mm": 8}}
    assert overridden(values, {"pooling": {}}) == {"pooling": {}}
    assert overridden(values, {"pooling.anisotropy": 3}) == {"pooling": {"anisotropy": 3, "coarsest_mm": 8}}
    assert values == {"pooling": {"anisotropy": 2, "coarsest_mm": 8}}


@pytest.mark.parametrize("name", ["optimisation.iteration", "optimization.iterations", "speed"])
def test_unknown_names_are_named(config_path: Path, name: str) -> None:
    with pytest.raises(ValidationError, match=name.split(".")[0]):
        read_config(config_path, {name: 1})


def test_a_name_through_a_plain_value_is_refused() -> None:
    with pytest.raises(ValueError, match=r"cannot set seed\.more: seed is 1"):
        overridden({"seed": 1}, {"seed.more": 2})


@pytest.mark.parametrize("text", ["seed", "=3", "a=[1"])
def test_what_is_no_assignment_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected NAME=VALUE|not valid YAML"):
        parse_overrides([text])
