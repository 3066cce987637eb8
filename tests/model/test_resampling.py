"""Resampling: linear, anti-aliased, centred, and kind to label maps."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from unet_factory.domain.spacing import resampled_shape
from unet_factory.model.preprocessing import AxisSampling, resample, resample_labels, sampled, smoothing_matrix

spacing = st.tuples(*[st.floats(0.3, 6.0)] * 3)
shapes = st.tuples(*[st.integers(1, 14)] * 3)


@given(shapes, spacing)
@settings(max_examples=30, deadline=None)
def test_the_same_spacing_changes_nothing(shape: tuple[int, int, int], mm: tuple[float, float, float]) -> None:
    volume = torch.randn(shape)
    assert torch.equal(resample(volume, mm, mm), volume)


@given(shapes, spacing, spacing)
@settings(max_examples=50, deadline=None)
def test_constants_stay_and_extremes_are_not_exceeded(
    shape: tuple[int, int, int], source: tuple[float, float, float], target: tuple[float, float, float]
) -> None:
    volume = torch.rand(shape)
    resampled = resample(volume, source, target)
    assert resampled.shape == resampled_shape(shape, source, target)
    assert volume.min() - 1e-5 <= resampled.min()
    assert resampled.max() <= volume.max() + 1e-5
    assert torch.allclose(resample(torch.full(shape, 3.0), source, target), torch.tensor(3.0), atol=1e-4)


@given(shapes, spacing, spacing)
@settings(max_examples=30, deadline=None)
def test_the_centre_stays_where_it_was(
    shape: tuple[int, int, int], source: tuple[float, float, float], target: tuple[float, float, float]
) -> None:
    """Resampling a mirrored volume is mirroring the resampled one."""
    volume = torch.randn(shape)
    for axis in range(3):
        there = resample(volume.flip(axis), source, target)
        assert torch.allclose(there, resample(volume, source, target).flip(axis), atol=1e-4)


def test_refining_a_ramp_is_exact() -> None:
    ramp = torch.arange(10.0)[:, None, None].expand(10, 4, 4).contiguous()
    fine = resample(ramp, (1, 1, 1), (0.5, 1, 1))
    inner = fine[1:-1, 0, 0]
    assert torch.allclose(inner, torch.arange(1, 19) / 2 - 0.25, atol=1e-5)


def test_coarsening_does_not_alias() -> None:
    """A pattern finer than the coarse voxel averages out; at a ratio of 3 point sampling would meet it whole."""
    stripes = torch.ones(60, 1, 1)
    stripes[::2] = -1
    assert stripes[1::3].abs().min() == 1
    coarse = resample(stripes, (1, 1, 1), (3, 1, 1))
    assert coarse[2:-2].abs().max() < 0.01


@pytest.mark.parametrize("ratio", [2.0, 3.0, 5.0])
def test_the_slice_profile_is_as_wide_as_the_coarse_voxel(ratio: float) -> None:
    """With the fine voxel's own profile, whose full width at half maximum is 1, it is a Gaussian of width ``ratio``."""
    profile = smoothing_matrix(101, ratio)[50].double()
    offset = torch.arange(101, dtype=torch.float64) - 50
    variance = float((profile * offset.square()).sum() / profile.sum())
    own = 1 / (8 * math.log(2))
    assert math.sqrt((variance + own) * 8 * math.log(2)) == pytest.approx(ratio, rel=0.01)


@pytest.mark.parametrize("target", [(2.0, 2.0, 2.0), (0.5, 1.0, 3.0)])
def test_label_volumes_survive(target: tuple[float, float, float]) -> None:
    labels = torch.zeros(24, 24, 24, dtype=torch.uint8)
    labels[4:20, 6:18, 6:12], labels[4:20, 6:18, 12:20] = 1, 2
    resampled = resample_labels(labels, 3, (1, 1, 1), target)
    assert resampled.dtype == torch.uint8
    for value in (1, 2):
        before = float((labels == value).sum())
        after = float((resampled == value).sum()) * target[0] * target[1] * target[2]
        assert after == pytest.approx(before, rel=0.2)


def test_absent_labels_do_not_appear() -> None:
    labels = torch.zeros(10, 10, 10, dtype=torch.uint8)
    labels[3:7, 3:7, 3:7] = 2
    assert set(resample_labels(labels, 3, (1, 1, 1), (2, 0.7, 1.3)).unique().tolist()) == {0, 2}


@pytest.mark.parametrize(
    ("target", "shape"),
    [((2.0, 1.0, 3.0), None), ((0.4, 5.0, 3.0), None), ((1.0, 2.0, 2.5), (9, 11, 13)), ((3.0, 2.2, 3.0), (9, 12, 4))],
)
def test_resampling_is_axis_by_axis_smoothing_and_interpolation(
    target: tuple[float, float, float], shape: tuple[int, int, int] | None
) -> None:
    """A second implementation, voxel by voxel along each line, also of stacked volumes."""
    source, volume = (1.0, 2.0, 3.0), torch.randn(2, 9, 11, 13, dtype=torch.float64)
    expected = volume.numpy()
    for axis in range(3):
        extent = None if shape is None else shape[axis]
        ratio = target[axis] / source[axis]
        expected = np.apply_along_axis(_resampled_line, 1 + axis, expected, ratio, extent)
    found = resample(volume, source, target, shape)
    assert found.is_contiguous()
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


def _resampled_line(line: NDArray[np.float64], ratio: float, extent: int | None) -> list[float]:
    if extent is None:
        extent = max(1, math.floor(len(line) / ratio + 0.5))
    smooth = list(line)
    if ratio > 1:
        sigma = math.sqrt(ratio**2 - 1) / 2.354820
        for at in range(len(line)):
            weights = [math.exp(-((at - other) ** 2) / (2 * sigma**2)) for other in range(len(line))]
            smooth[at] = sum(w * value for w, value in zip(weights, line, strict=True)) / sum(weights)
    places = [(at + 0.5 - extent / 2) * ratio + len(line) / 2 - 0.5 for at in range(extent)]
    return [float(np.interp(place, range(len(line)), smooth)) for place in places]


def test_labels_are_resampled_to_the_shape_and_classes_wanted() -> None:
    labels = torch.zeros(6, 6, 6, dtype=torch.uint8)
    labels[3:], labels[:, 3:, :3] = 1, 2
    fine = resample_labels(labels, 3, (1, 1, 1), (0.5, 1, 1), (12, 6, 6))
    assert torch.equal(fine, labels.repeat_interleave(2, dim=0))
    assert resample_labels(labels, 3, (1, 1, 1), (2, 2, 2), (4, 2, 5)).shape == (4, 2, 5)


@given(shapes, spacing, spacing, st.data())
@settings(max_examples=30, deadline=None)
def test_any_part_can_be_made_from_the_samples_it_depends_on(
    shape: tuple[int, int, int],
    source: tuple[float, float, float],
    target: tuple[float, float, float],
    data: st.DataObject,
) -> None:
    volume = torch.randn(shape)
    whole = resample(volume, source, target)
    samplings = [AxisSampling.of(*axis) for axis in zip(shape, whole.shape, source, target, strict=True)]
    results = [
        data.draw(st.tuples(st.integers(0, extent - 1), st.integers(1, extent)).filter(lambda ends: ends[0] < ends[1]))
        for extent in whole.shape
    ]
    needed = [slice(*sampling.samples_of(*ends)) for sampling, ends in zip(samplings, results, strict=True)]
    part = sampled(volume[tuple(needed)], samplings, results)
    assert torch.allclose(part, whole[tuple(slice(*ends) for ends in results)], atol=1e-5)
    for sampling, extent in zip(samplings, shape, strict=True):
        assert sampling.results_from(extent) == sampling.results
        for samples in range(extent):
            ready = sampling.results_from(samples)
            assert ready == 0 or sampling.samples_of(0, ready)[1] <= samples
            assert ready == sampling.results or sampling.samples_of(ready, ready + 1)[1] > samples
