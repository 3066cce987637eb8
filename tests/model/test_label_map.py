"""Label maps made from a moving slab are those made from the blended logits of the whole volume."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.inferers import sliding_window_inference
from torch import Tensor

from unet_factory.domain.windows import window_extents
from unet_factory.model.inference import pad_to_divisors
from unet_factory.model.label_map import LabelMapMaker, Windows
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
    assert found.shape == expected.shape[1:]
    if classes > 1:
        first, second = expected.topk(2, dim=0).values
        sure = first - second > TOO_CLOSE * float(expected.std())
        assert torch.equal(found[sure], expected.argmax(dim=0)[sure].to(torch.uint8))
        assert sure.float().mean() > 0.95
    else:
        assert not found.any()


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
