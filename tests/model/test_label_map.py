"""Label maps made from a moving slab are those made from the blended logits of the whole volume."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.inferers import sliding_window_inference
from torch import Tensor
from torch.nn import functional

from unet_factory.domain.windows import window_extents
from unet_factory.model.inference import pad_to_divisors
from unet_factory.model.label_map import Head, LabelMapMaker, Windows
from unet_factory.model.preprocessing import AxisSampling, resample

TOO_CLOSE = 1e-4  # two logits, relative to their spread: rounding may decide between them
shapes = st.tuples(*[st.integers(3, 20)] * 3)
spacings = st.tuples(*[st.sampled_from((0.7, 1.0, 1.5, 2.6))] * 3)


def network(window: Tensor, classes: int) -> Tensor:
    """Logits (batch, classes, *space) that depend on the whole window and on where in it a voxel lies."""
    place = torch.linspace(-1, 1, window.shape[2])[:, None, None]
    phase = torch.arange(1, classes + 1)[None, :, None, None, None]
    return torch.sin(phase * (window - window.mean()) + place)


@given(
    shape=shapes,
    window=st.tuples(*[st.sampled_from((6, 8, 16))] * 3),
    classes=st.integers(1, 5),
    overlap=st.sampled_from((0.0, 0.375, 0.5, 0.6)),
    working_mm=spacings,
    native_mm=spacings,
    slab_bytes=st.sampled_from((1, 5000, 2**31)),
)
@settings(max_examples=60, deadline=None)
def test_the_label_map_is_that_of_the_whole_volumes_logits(
    shape: tuple[int, int, int],
    window: tuple[int, int, int],
    classes: int,
    overlap: float,
    working_mm: tuple[float, float, float],
    native_mm: tuple[float, float, float],
    slab_bytes: int,
) -> None:
    volume, divisors = torch.randn(shape, generator=torch.Generator().manual_seed(2)), (2, 2, 1)
    padded = pad_to_divisors(volume, divisors)
    extents = window_extents(padded.shape, window, divisors)
    blended = sliding_window_inference(
        padded[None, None], extents, 1, lambda batch: network(batch, classes), overlap=overlap, mode="gaussian"
    )
    assert isinstance(blended, Tensor)
    expected = resample(blended[0, :, : shape[0], : shape[1], : shape[2]], working_mm, native_mm)

    def predict(starts: tuple[int, ...]) -> Tensor:
        r, a, s = (slice(start, start + part) for start, part in zip(starts, extents, strict=True))
        return network(padded[None, None, r, a, s], classes)[0]

    samplings = [AxisSampling.of(*axis) for axis in zip(shape, expected.shape[1:], working_mm, native_mm, strict=True)]
    windows = Windows.over(padded.shape, extents, overlap)
    found = LabelMapMaker(samplings, shape, windows, predict, slab_bytes).label_map()
    if classes > 1:
        assert_largest(found, expected)
    else:
        assert not found.any()


@given(
    shape=shapes,
    window=st.tuples(*[st.sampled_from((6, 8, 16))] * 3),
    kernel=st.sampled_from(((3, 3, 3), (3, 3, 1))),
    overlap=st.sampled_from((0.375, 0.5)),
    working_mm=spacings,
    native_mm=spacings,
    slab_bytes=st.sampled_from((5000, 2**31)),
    logits_at_once=st.sampled_from((1, 3000, 2**31)),
)
@settings(max_examples=25, deadline=None)
def test_many_classes_are_told_from_blended_features(
    shape: tuple[int, int, int],
    window: tuple[int, int, int],
    kernel: tuple[int, int, int],
    overlap: float,
    working_mm: tuple[float, float, float],
    native_mm: tuple[float, float, float],
    slab_bytes: int,
    logits_at_once: int,
) -> None:
    """The label map is the last layer's, applied to the whole padded volume's features, blended by a Gaussian."""
    random, divisors = torch.Generator().manual_seed(3), (2, 2, 1)
    head = Head(torch.randn(7, 3, *kernel, generator=random), torch.randn(7, generator=random))
    padded = pad_to_divisors(torch.randn(shape, generator=random), divisors)
    extents = window_extents(padded.shape, window, divisors)
    r, a, s = (torch.exp(-0.5 * ((torch.arange(n) - (n - 1) / 2) / (n / 8)) ** 2) for n in extents)
    gaussian = r[:, None, None] * a[:, None] * s
    blended = sliding_window_inference(
        padded[None, None], extents, 1, lambda batch: network(batch, 3), overlap=overlap, roi_weight_map=gaussian
    )
    assert isinstance(blended, Tensor)
    logits = functional.conv3d(blended, head.weight, head.bias, padding=head.reach)
    expected = resample(logits[0, :, : shape[0], : shape[1], : shape[2]], working_mm, native_mm)

    def predict(starts: tuple[int, ...]) -> Tensor:
        r, a, s = (slice(start, start + part) for start, part in zip(starts, extents, strict=True))
        return network(padded[None, None, r, a, s], 3)[0]

    samplings = [AxisSampling.of(*axis) for axis in zip(shape, expected.shape[1:], working_mm, native_mm, strict=True)]
    windows = Windows.over(padded.shape, extents, overlap)
    found = LabelMapMaker(samplings, shape, windows, predict, slab_bytes, head, logits_at_once).label_map()
    assert_largest(found, expected)


def assert_largest(labels: Tensor, logits: Tensor) -> None:
    """The class of the largest logit, wherever rounding does not decide."""
    assert labels.shape == logits.shape[1:]
    first, second = logits.topk(2, dim=0).values
    sure = first - second > TOO_CLOSE * float(logits.std())
    assert torch.equal(labels[sure], logits.argmax(dim=0)[sure].to(torch.uint8))
    assert sure.float().mean() > 0.95


def test_a_small_slab_costs_predictions_not_labels() -> None:
    """Every window is predicted, and told, as often as announced; most of them once."""
    volume, classes = torch.randn(40, 24, 16), 9
    windows = Windows.over(volume.shape, (8, 8, 8), 0.5)
    samplings = [AxisSampling.of(extent, extent, 1, 1) for extent in volume.shape]
    seen: list[tuple[int, ...]] = []

    def predict(starts: tuple[int, ...]) -> Tensor:
        seen.append(starts)
        r, a, s = (slice(start, start + 8) for start in starts)
        return network(volume[None, None, r, a, s], classes)[0]

    whole = LabelMapMaker(samplings, volume.shape, windows, predict).label_map()
    assert len(seen) == len(set(seen)) == len(windows)
    seen.clear()
    maker = LabelMapMaker(samplings, volume.shape, windows, predict, 9 * 9 * 24 * 16 * 4 // 2)
    assert torch.equal(maker.label_map(), whole)
    assert len(windows) < len(seen) == maker.predictions < 2 * len(windows)
    assert set(seen) == {starts for row, _ in windows.rows(0) for starts in row}
