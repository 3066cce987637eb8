"""The topology: the paper's sizes, and what the shapes promise."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unet_factory.domain.manifest import Architecture, HypernetworkShape, Parametrization, Pooling
from unet_factory.domain.spacing import SnappedSpacing, SpacingGrid
from unet_factory.model.hypernetwork import Hypernetwork
from unet_factory.model.unet import UNet, empty_unet, weight_shapes

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
    unet = UNet(architecture)
    extents = [factor * divisor for factor, divisor in zip((2, 3, 2), unet.divisors, strict=False)]
    logits = unet(torch.randn(2, 1, *extents))
    assert logits.shape == (2, 4, *extents)


FOLLOWING = Pooling(anisotropy=2, coarsest_mm=8)


@given(st.tuples(*[st.integers(5, 200)] * 3))
def test_pooling_that_follows_the_spacing_keeps_its_promises(steps: tuple[int, int, int]) -> None:
    """Nothing is halved that is much coarser than the rest or would become too coarse; all else is."""
    current = [step * 0.05 for step in steps]
    for strides in FOLLOWING.strides(current, 4):
        shortest = min(current)
        for axis, stride in enumerate(strides):
            allowed = current[axis] < 2 * shortest and 2 * current[axis] <= 8
            assert stride == (2 if allowed else 1)
            current[axis] *= stride


def test_pooling_at_its_limits() -> None:
    """An axis exactly twice as coarse as the finest is left alone; one that becomes exactly 8 mm is still halved."""
    assert FOLLOWING.strides((1, 1, 2), 2) == ((2, 2, 1), (2, 2, 2))
    assert FOLLOWING.strides((1, 1, 1.95), 1) == ((2, 2, 2),)
    assert FOLLOWING.strides((4, 4, 4), 2) == ((2, 2, 2), (1, 1, 1))
    assert FOLLOWING.strides((4.05, 4.05, 4.05), 1) == ((1, 1, 1),)


def test_pooling_halves_every_axis_unless_told_otherwise() -> None:
    assert Pooling().strides((0.5, 3.0, 40.0), 3) == ((2, 2, 2),) * 3
    assert Pooling(anisotropy=2, coarsest_mm=8, planned_at_mm=(1, 1, 1)).strides((9, 9, 9), 3) == ((2, 2, 2),) * 3


@pytest.mark.parametrize("um", [(500, 500, 3000), (1000, 1000, 1000), (3500, 1000, 1000), (7000, 7000, 7000)])
def test_logits_lie_on_the_input_grid_whatever_the_strides(um: tuple[int, int, int]) -> None:
    architecture = Architecture(classes=3, channels=(4, 6, 8), blocks=1, pooling=FOLLOWING)
    following, plain = UNet(architecture, architecture.strides(SnappedSpacing(*um))), UNet(architecture)
    following.load_state_dict(plain.state_dict(), strict=True)
    extents = [factor * divisor for factor, divisor in zip((3, 2, 5), following.divisors, strict=True)]
    assert following(torch.randn(1, 1, *extents)).shape == (1, 3, *extents)
    if set(following.strides) == {(2, 2, 2)}:
        volume = torch.randn(1, 1, *extents)
        assert torch.equal(following(volume), plain(volume))


def test_block_order_is_convolution_relu_norm() -> None:
    """With the norm neutral and its statistics removed, no block may output the result of a final ReLU."""
    block = UNet(Architecture(classes=2, channels=(8, 16), blocks=1)).stem
    features = block(torch.randn(1, 1, 8, 8, 8))
    assert torch.allclose(features.mean(dim=(2, 3, 4)), torch.zeros(1, 8), atol=1e-5)
    assert (features < 0).any()


def test_empty_unet_holds_no_storage() -> None:
    assert all(tensor.is_meta for tensor in empty_unet(Architecture(classes=2)).state_dict().values())


@pytest.mark.parametrize("extents", [(4, 2, 2), (2, 4, 4), (8, 8, 8), (16, 24, 16), (32, 40, 32)])
def test_inference_and_training_compute_the_same(extents: tuple[int, int, int]) -> None:
    """Inference takes another path through the convolutions of few voxels on a CPU; only rounding may tell."""
    torch.manual_seed(0)
    unet = UNet(Architecture(classes=3, channels=(8, 16), blocks=1))
    volume = torch.randn(1, 1, *extents)
    trained = unet(volume).detach()
    with torch.inference_mode():
        inferred = unet(volume)
    assert torch.allclose(trained, inferred, atol=1e-4)
