"""Windows, padding and blending: invisible in the answer."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from unet_factory.domain.manifest import Architecture
from unet_factory.domain.spacing import SnappedSpacing, SpacingPlan
from unet_factory.domain.windows import count_windows
from unet_factory.model.inference import Execution, logits, pad_to_divisors, segment_scan
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


def test_less_memory_is_half_the_window_on_the_host() -> None:
    """In multiples of the divisors, two of them at least; all else stays."""
    execution = Execution(torch.device("meta"), (96, 50, 8), (8, 8, 4), precision="bfloat16")
    assert execution.reduced() == Execution(torch.device("meta"), (48, 24, 8), (8, 8, 4), "bfloat16", True)
    assert execution.reduced().reduced().window == (24, 16, 8)


def test_windows_are_counted_by_hand() -> None:
    """Windows of 8 start every 4 voxels, the last one ends with the volume; one of a voxel starts at each."""
    assert [count_windows((extent,), (8,)) for extent in (1, 7, 8, 9, 12, 13, 16, 17)] == [1, 1, 1, 2, 2, 3, 3, 4]
    assert count_windows((5,), (1,)) == 5
    assert count_windows((9,), (3,)) == 7
    assert count_windows((12, 8, 16), (8, 8, 8)) == 6


def test_windows_are_multiples_of_the_divisors_and_no_larger_than_the_volume() -> None:
    seen = set()

    def network(batch: Tensor) -> Tensor:
        seen.add(tuple(batch.shape))
        return 2 * batch

    volume = torch.randn(20, 9, 40)
    found = logits(network, volume, window=(64, 5, 18), divisors=(4, 2, 8))
    assert seen == {(1, 1, 20, 6, 24)}
    torch.testing.assert_close(found[0], 2 * volume, rtol=0, atol=1e-4)


def test_padding_is_behind_the_far_ends() -> None:
    volume = torch.rand(3, 5, 6) + 1
    padded = pad_to_divisors(volume, (2, 4, 8))
    assert padded.shape == (4, 8, 8)
    assert torch.equal(padded[:3, :5, :6], volume)
    assert padded.sum() == pytest.approx(float(volume.sum()))


PLAN = SpacingPlan((1.0, 1.0, 1.0), (1.0, 1.0, 1.0), SnappedSpacing(1000, 1000, 1000), out_of_range=False)


@pytest.mark.parametrize(("precision", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
@pytest.mark.parametrize("on_host", [False, True])
def test_the_network_runs_in_the_precision_wanted(precision: str, dtype: torch.dtype, on_host: bool) -> None:
    execution = Execution(torch.device("cpu"), (8, 8, 8), (1, 1, 1), precision, on_host)  # type: ignore[arg-type]
    weight, seen = torch.ones(2, 1, 1, 1, 1), set()

    def network(window: Tensor) -> Tensor:
        found: Tensor = torch.nn.functional.conv3d(window, weight)
        seen.add((found.dtype, torch.is_grad_enabled(), torch.is_autocast_cache_enabled()))
        return found

    segment_scan(network, torch.randn(8, 8, 8), PLAN, execution)
    assert {(kind, graded) for kind, graded, _ in seen} == {(dtype, False)}
    if precision == "bfloat16":
        assert seen == {(dtype, False, False)}, "a cast weight must not be kept: weights change between networks"


def test_the_largest_logit_wins_and_the_first_of_equals() -> None:
    """Five classes take turns voxel by voxel, and where it is the last one's, the third is as likely."""
    scan = torch.arange(64.0).view(4, 4, 4)

    def network(window: Tensor) -> Tensor:
        place = (window[0, 0] * scan.std(correction=0) + scan.mean()).round().long()
        one_hot = torch.nn.functional.one_hot(place % 5, 5).movedim(-1, 0).float()
        one_hot[2] += one_hot[4]
        return one_hot[None]

    seen: list[tuple[int, int]] = []
    labels = segment_scan(
        network, scan, PLAN, Execution(torch.device("cpu"), (4, 4, 4), (1, 1, 1)), on_window=lambda *at: seen.append(at)
    )
    expected = (torch.arange(64) % 5).view(4, 4, 4)
    expected[expected == 4] = 2
    assert torch.equal(labels, expected.to(torch.uint8))
    assert seen == [(0, 1)]


def test_a_scan_of_just_the_voxels_allowed_is_segmented() -> None:
    scan, execution = torch.randn(4, 5, 6), Execution(torch.device("cpu"), (8, 8, 8), (1, 1, 1))
    labels = segment_scan(lambda window: torch.cat([window, -window], 1), scan, PLAN, execution, max_voxels=120)
    assert torch.equal(labels.bool(), scan < scan.mean())


def test_a_coarser_working_spacing_is_what_the_network_sees() -> None:
    """16 voxels of 1 mm are 8 of 2 mm; the label map is on the scan's own grid again, edges where they were."""
    plan = SpacingPlan((1.0, 1.0, 1.0), (2.0, 1.0, 1.0), SnappedSpacing(2000, 1000, 1000), out_of_range=False)
    seen = []

    def network(window: Tensor) -> Tensor:
        seen.append(tuple(window.shape))
        return torch.cat([-window, window], dim=1)

    scan = torch.linspace(-1, 1, 16)[:, None, None].expand(16, 4, 4).contiguous()
    labels = segment_scan(network, scan, plan, Execution(torch.device("cpu"), (32, 32, 32), (1, 1, 1)))
    assert seen == [(1, 1, 8, 4, 4)]
    assert torch.equal(labels.bool(), scan > 0)


def test_an_odd_extent_comes_back_from_a_coarser_spacing() -> None:
    """Five voxels of 1 mm are worked on as three of 2 mm, which alone would come back as six."""
    plan = SpacingPlan((1.0, 1.0, 1.0), (2.0, 1.0, 1.0), SnappedSpacing(2000, 1000, 1000), out_of_range=False)
    scan, execution = torch.randn(5, 4, 4), Execution(torch.device("cpu"), (8, 8, 8), (1, 1, 1))
    assert segment_scan(lambda window: torch.cat([window, -window], 1), scan, plan, execution).shape == (5, 4, 4)
