"""The configurations that ship: all are read, and those of the paper are what the paper says."""

from pathlib import Path

import pytest
import torch

from tests.fixtures.project import CONFIGS
from unet_factory.domain.manifest import Parametrization
from unet_factory.model.hypernetwork import Hypernetwork
from unet_factory.model.unet import weight_shapes
from unet_factory_training.config import TrainingConfig, read_config
from unet_factory_training.loop import manifest_of
from unet_factory_training.trainer import learning_rate_at


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_configuration_is_read_and_makes_a_manifest(path: Path) -> None:
    config = read_config(path)
    assert config.name == path.stem
    assert manifest_of(config).architecture.classes == len(config.labels)


@pytest.mark.parametrize(
    ("name", "unet_weights", "hypernetwork_weights", "crop_ras", "range_mm"),
    [
        ("brats", 3_327_122, 169_683_922, (128, 128, 128), ((1, 3), (1, 3), (1, 3))),
        ("spider", 13_391_939, 281_231_089, (48, 128, 256), ((1, 5), (0.2, 1.5), (0.2, 1.5))),
        ("mmwhs", 3_329_720, 169_816_420, (128, 128, 128), ((0.5, 3.5), (0.5, 3.5), (0.5, 3.5))),
    ],
)
def test_the_paper_at_its_own_size(
    name: str,
    unet_weights: int,
    hypernetwork_weights: int,
    crop_ras: tuple[int, int, int],
    range_mm: tuple[tuple[float, float], ...],
) -> None:
    config = read_config(CONFIGS / f"{name}.yaml")
    assert sum(shape.numel() for shape in weight_shapes(config.architecture).values()) == unet_weights
    with torch.device("meta"):
        hypernetwork = Hypernetwork(config.architecture, config.hypernetwork, config.grid)
    assert sum(parameter.numel() for parameter in hypernetwork.parameters()) == hypernetwork_weights
    assert config.hypernetwork.parametrization is Parametrization.PAPER
    assert config.grid.range_mm == range_mm
    assert config.batch.max_patch == config.window == crop_ras
    assert config.batch.min_scans == config.batch.max_scans == 4
    _assert_plain_adam(config)


def _assert_plain_adam(config: TrainingConfig) -> None:
    """250 000 iterations at 1e-3 from the first to the last, no averaging, no clipping."""
    optimisation = config.optimisation
    assert optimisation.iterations == 250_000
    assert {learning_rate_at(iteration, optimisation) for iteration in (0, 1, 125_000, 249_999)} == {1e-3}
    assert (optimisation.ema_decay, optimisation.clip_norm) == (0, None)
