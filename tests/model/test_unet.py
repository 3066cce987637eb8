"""The topology: the paper's sizes, and what the shapes promise."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from unet_factory.domain.manifest import Architecture, HypernetworkShape, Parametrization, Pooling
from unet_factory.domain.spacing import SnappedSpacing, SpacingGrid
from unet_factory.model.hypernetwork import Hypernetwork
from unet_factory.model.plain_unet import UpBlock
from unet_factory.model.unet import LayerByLayerUNet, UNet, empty_unet, unet_of, weight_shapes

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


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("pooling", [Pooling(), FOLLOWING])
@pytest.mark.parametrize("batch", [1, 2])
def test_float32_is_equal_to_the_bit_layer_by_layer(dimensions: int, pooling: Pooling, batch: int) -> None:
    """ReLUs that are applied within convolutions, and norms in place, change no value, and not what goes in."""
    torch.manual_seed(0)
    architecture = Architecture(dimensions=dimensions, classes=3, channels=(8, 16, 24), blocks=2, pooling=pooling)
    strides = architecture.strides(SnappedSpacing(500, 500, 3000))
    unet, plain = UNet(architecture, strides), LayerByLayerUNet(architecture, strides)
    plain.load_state_dict(unet.state_dict())
    volume = torch.randn(batch, 1, *(32, 24, 8)[:dimensions])
    given = volume.clone()
    with torch.inference_mode():
        assert torch.equal(unet(volume), plain(volume))
    assert torch.equal(volume, given)


@pytest.mark.parametrize("classes", [2, 5, 6])
def test_few_classes_in_bfloat16_are_those_of_a_plain_convolution(classes: int) -> None:
    torch.manual_seed(0)
    head = UNet(Architecture(classes=classes, channels=(8,), blocks=1)).head
    volume = torch.randn(1, 8, 6, 5, 7).bfloat16()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        logits = head(volume)
    assert logits.dtype == torch.bfloat16
    weight, bias = (each.bfloat16().double() for each in head.parameters())
    exact = torch.nn.functional.conv3d(volume.double(), weight, bias, padding=1)
    torch.testing.assert_close(logits.double(), exact, rtol=2**-7, atol=2**-7)


@pytest.mark.parametrize("channels", [3, 8, 16, 48])
@pytest.mark.parametrize("around", [0.0, 20.0])
def test_norms_in_bfloat16_are_rounded_once(channels: int, around: float) -> None:
    """Also where the values lie close together and far from zero, and where voxels do not fill the vectors."""
    torch.manual_seed(0)
    norm = UNet.norms[3](channels, affine=True)
    for extents in ((16, 16, 16), (5, 3, 7)):
        volume = (torch.randn(1, channels, *extents) + around).bfloat16()
        exact = torch.nn.functional.instance_norm(volume.double(), eps=1e-5)
        with torch.inference_mode():
            rounded = norm(volume.contiguous(memory_format=torch.channels_last_3d))
        assert rounded.dtype == torch.bfloat16
        torch.testing.assert_close(rounded.double(), exact, rtol=2**-8, atol=2**-9)


@pytest.mark.parametrize("pooling", [Pooling(), FOLLOWING])
def test_bfloat16_differs_by_rounding_alone(pooling: Pooling) -> None:
    """A single volume in bfloat16 lies in another order in memory on its way through the network."""
    torch.manual_seed(0)
    architecture = Architecture(classes=3, channels=(8, 16), blocks=1, pooling=pooling)
    unet = empty_unet(architecture, SnappedSpacing(500, 500, 3000)).to_empty(device="cpu")
    unet.load_state_dict(UNet(architecture).state_dict())
    volumes = torch.randn(2, 1, 16, 24, 8)
    with torch.inference_mode():
        exact = unet(volumes)
        with torch.autocast("cpu", torch.bfloat16):
            single, batch = unet(volumes[:1]), unet(volumes)
    assert single.dtype == torch.bfloat16
    for rounded, expected in ((single, exact[:1]), (batch, exact)):
        assert (rounded - expected).abs().max() < 0.1 * expected.std()


@pytest.mark.parametrize("dimensions", [2, 3])
def test_the_whole_network_by_hand(dimensions: int) -> None:
    """A second implementation of the forward pass, from the state dict alone, with PyTorch's own functions."""
    torch.manual_seed(0)
    architecture = Architecture(dimensions=dimensions, in_channels=2, classes=3, channels=(4, 6, 8), blocks=2)
    unet = UNet(architecture)
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            if "norm" in name:
                parameter.normal_(mean=0.5)
    volume = torch.randn(2, 2, *(8, 16, 24)[:dimensions])
    torch.testing.assert_close(unet(volume), _by_hand(unet.state_dict(), volume), rtol=1e-3, atol=1e-4)


def _by_hand(state: dict[str, torch.Tensor], volume: torch.Tensor) -> torch.Tensor:
    convolve, raise_to = (
        (functional.conv3d, functional.conv_transpose3d)
        if volume.dim() == 5
        else (functional.conv2d, functional.conv_transpose2d)
    )

    def finish(features: torch.Tensor, name: str) -> torch.Tensor:
        features = features.clamp(min=0)
        axes = tuple(range(2, features.dim()))
        mean, variance = features.mean(axes, keepdim=True), features.var(axes, correction=0, keepdim=True)
        scale, shift = (state[f"{name}.norm.{part}"].view(1, -1, *[1] * len(axes)) for part in ("weight", "bias"))
        return (features - mean) / (variance + 1e-5).sqrt() * scale + shift

    def block(features: torch.Tensor, name: str, stride: int = 1) -> torch.Tensor:
        weight, bias = state[f"{name}.conv.weight"], state[f"{name}.conv.bias"]
        return finish(convolve(features, weight, bias, stride=stride, padding=1), name)

    def stage(features: torch.Tensor, name: str) -> torch.Tensor:
        return block(block(features, f"{name}.0"), f"{name}.1")

    def up(features: torch.Tensor, name: str) -> torch.Tensor:
        weight, bias = state[f"{name}.conv.weight"], state[f"{name}.conv.bias"]
        return finish(raise_to(features, weight, bias, stride=2, padding=1), name)

    fine = stage(block(volume, "stem"), "encoders.0")
    middle = stage(block(fine, "downs.0", stride=2), "encoders.1")
    features = stage(block(middle, "downs.1", stride=2), "encoders.2")
    features = stage(torch.cat([middle, up(features, "ups.1")], dim=1), "decoders.1")
    features = stage(torch.cat([fine, up(features, "ups.0")], dim=1), "decoders.0")
    return convolve(features, state["head.weight"], state["head.bias"], padding=1)


def test_an_axis_left_alone_is_neither_shrunk_nor_shifted() -> None:
    """The transposed kernel makes one voxel more than there is; the one at the far end is cut off before the norm."""
    architecture = Architecture(classes=2, channels=(2, 4), blocks=1)
    unet = UNet(architecture, ((2, 2, 1),))
    assert unet.divisors == (2, 2, 1)
    assert unet.strides == ((2, 2, 1),)
    coarse = torch.randn(1, 4, 3, 3, 5)
    up = unet.ups[0]
    assert isinstance(up, UpBlock)
    raised = up.conv(coarse)
    assert raised.shape[2:] == (6, 6, 6)
    cut = torch.relu(raised[..., :5])
    axes = (2, 3, 4)
    expected = (cut - cut.mean(axes, keepdim=True)) / (cut.var(axes, correction=0, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(up(coarse, (6, 6, 5)), expected, rtol=1e-3, atol=1e-4)


def test_a_single_level_takes_any_extent() -> None:
    unet = UNet(Architecture(dimensions=2, classes=2, channels=(4,), blocks=1))
    assert unet.divisors == (1, 1, 1)
    assert unet(torch.randn(1, 1, 5, 7)).shape == (1, 2, 5, 7)


def test_a_network_of_slices_takes_a_volume_slice_by_slice() -> None:
    unet = UNet(Architecture(dimensions=2, classes=3, channels=(4, 6), blocks=1), ((2, 2),))
    assert unet.divisors == (2, 2, 1)
    volume = torch.randn(2, 1, 8, 6, 5)
    whole = unet(volume)
    assert whole.shape == (2, 3, 8, 6, 5)
    for number in range(5):
        torch.testing.assert_close(whole[..., number], unet(volume[..., number]), rtol=1e-4, atol=1e-5)


def test_a_network_of_given_weights_holds_them() -> None:
    """Themselves, not copies; ready to segment; and of the strides that its spacing wants."""
    architecture = Architecture(classes=2, channels=(4, 8), blocks=1, pooling=FOLLOWING)
    weights = {name: torch.randn(shape) for name, shape in weight_shapes(architecture).items()}
    unet = unet_of(weights, architecture, SnappedSpacing(500, 500, 3000))
    assert unet.strides == ((2, 2, 1),)
    assert not unet.training
    for name, parameter in unet.named_parameters():
        assert parameter.data_ptr() == weights[name].data_ptr()
        assert not parameter.requires_grad
    with pytest.raises(RuntimeError, match="Missing key"):
        unet_of({name: weights[name] for name in list(weights)[1:]}, architecture, SnappedSpacing(500, 500, 3000))
    with pytest.raises(RuntimeError, match="Unexpected key"):
        unet_of({**weights, "more": torch.zeros(1)}, architecture, SnappedSpacing(500, 500, 3000))


def test_strides_of_an_empty_network_follow_its_spacing() -> None:
    architecture = Architecture(classes=2, channels=(4, 8), blocks=1, pooling=FOLLOWING)
    assert empty_unet(architecture, SnappedSpacing(500, 500, 3000)).strides == ((2, 2, 1),)
    assert empty_unet(architecture).strides == ((2, 2, 2),)


def test_autocast_and_half_precision_are_respected_in_inference() -> None:
    """The other path is for float32 alone: what is asked to be computed in bfloat16 is."""
    conv = UNet(Architecture(classes=2, channels=(4, 8), blocks=1)).stem.conv
    volume = torch.randn(1, 1, 8, 8, 8)
    with torch.inference_mode():
        assert conv(volume).dtype == torch.float32
        with torch.autocast("cpu", torch.bfloat16):
            assert conv(volume).dtype == torch.bfloat16
        conv.to(torch.bfloat16)
        assert conv(volume.bfloat16()).dtype == torch.bfloat16
        with pytest.raises(RuntimeError):
            conv(volume)
    assert conv.to(torch.float32)(volume).requires_grad
