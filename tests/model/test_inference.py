"""Windows, padding and blending: invisible in the answer."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from unet_factory.domain.manifest import Architecture
from unet_factory.model.inference import count_windows, logits, pad_to_divisors
from unet_factory.model.unet import UNet

ARCHITECTURE = Architecture(classes=3, channels=(4, 8, 8), blocks=1)
extents = st.tuples(*[st.integers(1, 21)] * 3)


@pytest.fixture(scope="module")
def unet() -> UNet:
    torch.manual_seed(1)
    return UNet(ARCHITECTURE).eval()


@settings(max_examples=15, deadline=None)
@given(extents)
def test_any_shape_is_segmented_on_its_own_grid(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(1)
    network = UNet(ARCHITECTURE).eval()
    with torch.inference_mode():
        found = logits(network, torch.randn(shape), window=(32, 32, 32), divisors=network.divisors)
    assert found.shape == (ARCHITECTURE.classes, *shape)
    assert found.dtype == torch.float32
    assert found.isfinite().all()


def test_one_window_is_the_plain_network(unet: UNet) -> None:
    volume = torch.randn(16, 12, 8)
    with torch.inference_mode():
        plain = unet(volume[None, None])[0]
        windowed = logits(unet, volume, window=(16, 16, 16), divisors=(4, 4, 4))
    assert torch.allclose(plain, windowed, atol=1e-5)


def _blur(batch: Tensor) -> Tensor:
    """A network of small receptive field, for which windows must not matter away from their borders."""
    smooth = torch.nn.functional.avg_pool3d(batch, 3, stride=1, padding=1)
    return torch.cat([smooth, -smooth], dim=1)


def test_blending_divides_by_the_summed_weights() -> None:
    """A constant answer stays that constant wherever windows overlap."""

    def constant(batch: Tensor) -> Tensor:
        return torch.full((1, 2, *batch.shape[2:]), 7.0)

    blended = logits(constant, torch.randn(40, 24, 33), window=(16, 16, 16), divisors=(8, 8, 8))
    assert torch.allclose(blended, torch.full_like(blended, 7.0), atol=1e-4)


def test_a_window_counts_less_towards_its_border() -> None:
    """Two windows of 32 voxels that overlap by half, one answers 0, the other 1: a Gaussian of an eighth of the window
    about each one's middle decides, as in nnU-Net.
    """
    answers = iter((0.0, 1.0))

    def numbered(batch: Tensor) -> Tensor:
        return torch.full((1, 1, *batch.shape[2:]), next(answers))

    blended = logits(numbered, torch.randn(48, 8, 8), window=(32, 8, 8), divisors=(8, 8, 8))[0, :, 4, 4]
    place = torch.arange(48.0)
    first, second = (torch.exp(-0.5 * ((place - middle) / 4) ** 2) for middle in (15.5, 31.5))
    expected = (second / (first + second))[16:32]
    assert torch.allclose(blended[16:32], expected, atol=2e-3)
    assert blended[18] < 0.05 < 0.95 < blended[29]


def test_windows_agree_with_the_whole() -> None:
    """For a network that looks at one voxel at a time, windows and blending must not show at all."""

    def pointwise(batch: Tensor) -> Tensor:
        return torch.cat([batch, -batch.square()], dim=1)

    volume = torch.randn(48, 32, 40)
    whole = logits(pointwise, volume, window=(48, 32, 40), divisors=(8, 8, 8))
    assert torch.allclose(whole, logits(pointwise, volume, window=(16, 16, 16), divisors=(8, 8, 8)), atol=1e-4)


@pytest.mark.parametrize("shape", [(40, 24, 33), (16, 16, 16), (5, 70, 9), (64, 64, 64)])
def test_windows_are_counted_as_they_come(shape: tuple[int, int, int]) -> None:
    seen: list[tuple[int, int]] = []
    logits(_blur, torch.randn(shape), window=(16, 16, 16), divisors=(8, 8, 8), on_window=lambda *at: seen.append(at))
    total = len(seen)
    assert seen == [(done, total) for done in range(total)]
    assert count_windows(pad_to_divisors(torch.empty(shape), (8, 8, 8)).shape, (16, 16, 16)) == total


def test_work_can_be_stopped_between_windows() -> None:
    class StopHereError(Exception):
        pass

    def stop_at_third(done: int, _total: int) -> None:
        if done == 2:
            raise StopHereError

    calls = []

    def network(batch: Tensor) -> Tensor:
        calls.append(batch.shape)
        return _blur(batch)

    with pytest.raises(StopHereError):
        logits(network, torch.randn(64, 16, 16), window=(16, 16, 16), divisors=(8, 8, 8), on_window=stop_at_third)
    assert len(calls) == 2


def test_padding_leaves_more_than_one_voxel_at_the_bottom() -> None:
    assert pad_to_divisors(torch.zeros(3, 4, 1), (4, 4, 4)).shape == (8, 4, 4)
    assert pad_to_divisors(torch.zeros(5, 4, 1), (4, 4, 4)).shape == (8, 4, 4)
    assert pad_to_divisors(torch.ones(5, 4, 1), (4, 4, 4)).sum() == 20
