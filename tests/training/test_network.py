"""Mixed precision: the gradients of every shape of batch are those of float32, up to rounding."""

import pytest
import torch

from unet_factory.domain.manifest import Architecture, HypernetworkShape, Pooling
from unet_factory.domain.spacing import SpacingGrid
from unet_factory.model.hypernetwork import Hypernetwork
from unet_factory_training.network import SpacingConditionedUNet

GRID = SpacingGrid.from_mm(0.05, [(0.5, 3.5)] * 3)


def gradients(network: SpacingConditionedUNet, images: torch.Tensor, *, low_precision: bool) -> torch.Tensor:
    network.zero_grad(set_to_none=True)
    images = images.bfloat16() if low_precision else images  # as the engine does
    with torch.autocast("cpu", torch.bfloat16, enabled=low_precision):
        logits = network(images, GRID.snap((1.0, 1.0, 3.0)))
    (logits.float() * torch.linspace(-1, 1, logits.numel()).view_as(logits)).mean().backward()
    bias = network.hypernetwork.bias.grad
    assert bias is not None
    return bias.clone()


@pytest.mark.parametrize(
    "extents", [(8, 16, 16), (16, 8, 16), (16, 16, 8), (8, 8, 8), (4, 16, 16), (16, 4, 8), (12, 8, 8)]
)
@pytest.mark.parametrize("pooling", [Pooling(), Pooling(anisotropy=2)])
def test_bfloat16_gradients_are_right_however_thin_the_crop(extents: tuple[int, ...], pooling: Pooling) -> None:
    """Rubbish is left in freed memory first: kernels that leave parts of a gradient unwritten would show it."""
    torch.manual_seed(0)
    architecture = Architecture(classes=3, channels=(16, 16, 16), blocks=1, pooling=pooling)
    network = SpacingConditionedUNet(Hypernetwork(architecture, HypernetworkShape(hidden=(8, 8)), GRID))
    images = torch.randn(2, 1, *extents)
    expected = gradients(network, images, low_precision=False)
    for _ in range(3):
        rubbish = [torch.full((2**16,), float("inf")) for _ in range(40)]
        del rubbish
        found = gradients(network, images, low_precision=True)
        assert torch.isfinite(found).all()
        assert torch.nn.functional.cosine_similarity(found, expected, dim=0) > 0.9
