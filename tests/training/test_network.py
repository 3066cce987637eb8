"""Mixed precision: the gradients of every shape of batch are those of float32, up to rounding."""

import pytest
import torch
from torch.func import functional_call

from unet_factory.domain.conditions import Condition
from unet_factory.domain.manifest import Architecture, HypernetworkShape, Pooling
from unet_factory.domain.spacing import SpacingGrid
from unet_factory.model.hypernetwork import Hypernetwork
from unet_factory.model.unet import empty_unet
from unet_factory_training.network import SpacingConditionedUNet

GRID = SpacingGrid.from_mm(0.05, [(0.5, 3.5)] * 3)


def gradients(network: SpacingConditionedUNet, images: torch.Tensor, *, low_precision: bool) -> torch.Tensor:
    network.zero_grad(set_to_none=True)
    images = images.bfloat16() if low_precision else images  # as the engine does
    with torch.autocast("cpu", torch.bfloat16, enabled=low_precision):
        (logits,) = network(images, GRID.snap((1.0, 1.0, 3.0)))
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


FIELD = Condition(name="field_strength_t", minimum=1, maximum=3, step=0.5, default=2)
FLAT = Architecture(classes=3, channels=(4, 8), blocks=1, pooling=Pooling(anisotropy=2))


def conditioned() -> SpacingConditionedUNet:
    """With heads large enough for spacing and conditions to matter as after training."""
    torch.manual_seed(0)
    hypernetwork = Hypernetwork(FLAT, HypernetworkShape(hidden=(8, 8)), GRID, [FIELD])
    with torch.no_grad():
        hypernetwork.heads.mul_(100)
    return SpacingConditionedUNet(hypernetwork)


def test_logits_are_those_of_the_network_for_the_spacing_and_conditions() -> None:
    """Also of one that was seen before, in whatever order, and of others with the same strides."""
    network, images = conditioned(), torch.randn(2, 1, 8, 8, 8)
    wanted = [((1.0, 1.0, 3.0), (3.0,)), ((1.0, 1.0, 1.0), (1.0,)), ((0.5, 0.5, 3.5), None), ((1.0, 1.0, 3.0), (3.0,))]
    for mm, conditions in wanted:
        spacing = GRID.snap(mm)
        weights = network.hypernetwork(torch.tensor(mm), conditions)
        expected = functional_call(empty_unet(FLAT, spacing), weights, (images,), strict=True)
        assert torch.equal(network(images, spacing, conditions)[0], expected)
        assert torch.equal(
            network(images.bfloat16(), spacing, conditions)[0],
            network(images.bfloat16().float(), spacing, conditions)[0],
        )
    strong, weak = (network(images, GRID.snap((1.0, 1.0, 3.0)), (tesla,))[0] for tesla in (3.0, 1.0))
    assert not torch.allclose(strong, weak, atol=1e-3)


def test_only_the_hypernetworks_parameters_are_trained() -> None:
    network = conditioned()
    network(torch.randn(1, 1, 8, 8, 8), GRID.snap((1.0, 1.0, 3.0)), (2.0,))[0].square().mean().backward()
    assert {name.split(".")[0] for name, _ in network.named_parameters()} == {"hypernetwork"}
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize(
    ("extents", "dtype"),
    [
        ((6, 4, 2), torch.bfloat16),
        ((4, 4, 2), torch.float32),
        ((6, 2, 2), torch.float32),
        ((6, 4, 1), torch.float32),
        ((16, 8, 1), torch.float32),
    ],
)
def test_thin_crops_are_computed_in_float32(extents: tuple[int, int, int], dtype: torch.dtype) -> None:
    """At 1 x 1 x 3 mm only R and A are halved; two voxels along R at the coarsest level, or one elsewhere, are thin."""
    network, images, spacing = conditioned(), torch.randn(2, 1, *extents), GRID.snap((1.0, 1.0, 3.0))
    with torch.autocast("cpu", torch.bfloat16):
        (found,) = network(images.bfloat16(), spacing, (2.0,))
    assert found.dtype == dtype
    weights = network.hypernetwork(torch.tensor(spacing.mm), (2.0,))
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        expected = functional_call(empty_unet(FLAT, spacing), weights, (images.bfloat16().to(dtype),), strict=True)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
