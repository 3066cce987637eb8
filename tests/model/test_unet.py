"""The topology: the paper's sizes, and what the shapes promise."""

import pytest
import torch

from unet_factory.manifest import Architecture, HypernetworkShape, Parametrization
from unet_factory.model.hypernetwork import Hypernetwork
from unet_factory.model.unet import UNet, empty_unet, weight_shapes
from unet_factory.spacing import SpacingGrid

PAPER_GRID = SpacingGrid.from_mm(0.05, [(0.5, 3.5)] * 3)
SPIDER_CHANNELS = (16, 32, 64, 128, 256)


@pytest.mark.parametrize(
    ("architecture", "hidden", "unet_weights", "hypernetwork_weights"),
    [
        pytest.param(Architecture(classes=2), (10, 10, 50), 3_327_122, 169_683_922, id="BRATS"),
        pytest.param(
            Architecture(classes=3, channels=SPIDER_CHANNELS), (10, 10, 20), 13_391_939, 281_231_089, id="SPIDER"
        ),
        pytest.param(Architecture(classes=8), (10, 10, 50), 3_329_720, 169_816_420, id="MM-WHS"),
    ],
)
def test_sizes_at_paper_scale(
    architecture: Architecture, hidden: tuple[int, ...], unet_weights: int, hypernetwork_weights: int
) -> None:
    assert sum(shape.numel() for shape in weight_shapes(architecture).values()) == unet_weights
    with torch.device("meta"):
        shape = HypernetworkShape(parametrization=Parametrization.PAPER, hidden=hidden)
        hypernetwork = Hypernetwork(architecture, shape, PAPER_GRID)
    assert sum(parameter.numel() for parameter in hypernetwork.parameters()) == hypernetwork_weights


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("levels", [1, 2, 3])
def test_logits_lie_on_the_input_grid(dimensions: int, levels: int) -> None:
    architecture = Architecture(dimensions=dimensions, classes=4, channels=(4, 6, 8)[:levels], blocks=1)
    extents = (2 * architecture.divisor, 3 * architecture.divisor, 2 * architecture.divisor)[:dimensions]
    logits = UNet(architecture)(torch.randn(2, 1, *extents))
    assert logits.shape == (2, 4, *extents)


def test_block_order_is_convolution_relu_norm() -> None:
    """With the norm neutral and its statistics removed, no block may output the result of a final ReLU."""
    block = UNet(Architecture(classes=2, channels=(8, 16), blocks=1)).stem
    features = block(torch.randn(1, 1, 8, 8, 8))
    assert torch.allclose(features.mean(dim=(2, 3, 4)), torch.zeros(1, 8), atol=1e-5)
    assert (features < 0).any()


def test_empty_unet_holds_no_storage() -> None:
    assert all(tensor.is_meta for tensor in empty_unet(Architecture(classes=2)).state_dict().values())
