"""Measures and statistics against cases that a hand can compute, and against MONAI's own."""

import math
import warnings

import numpy as np
import pytest
import torch
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance
from torch import Tensor

from unet_factory_research.comparison.measures import measure_labels
from unet_factory_research.comparison.statistics import far_out, holm, mean_over_subjects, paired_p_value


def cube(first: int, shape: tuple[int, int, int] = (24, 12, 12)) -> Tensor:
    labels = torch.zeros(shape, dtype=torch.uint8)
    labels[first : first + 4, 3:9, 3:9] = 1
    return labels


def test_a_perfect_label_map() -> None:
    (measures,) = measure_labels(cube(4), cube(4), 2, (1.0, 2.0, 3.0))
    assert (measures.dice, measures.hd95_mm, measures.assd_mm, measures.volume_bias) == (1, 0, 0, 0)


@pytest.mark.parametrize("shift", [4, 10])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.5, 1.0, 0.5)])
def test_a_shifted_slab_is_as_far_as_it_was_shifted(shift: int, spacing: tuple[float, float, float]) -> None:
    """The slabs do not overlap; every point of one has its nearest on the facing side of the other."""
    (measures,) = measure_labels(cube(2 + shift), cube(2), 2, spacing)
    assert measures.dice == 0
    assert measures.hd95_mm == pytest.approx(shift * spacing[0])
    layers = [36, 20, 20, 36]  # surface voxels of a 4 x 6 x 6 slab, per layer
    distances = [(shift - 3 + layer) * spacing[0] for layer in range(4)]
    mean = sum(count * mm for count, mm in zip(layers, distances, strict=True)) / sum(layers)
    assert measures.assd_mm == pytest.approx(mean)
    assert measures.volume_bias == 0


def test_they_agree_with_the_library_on_ragged_shapes() -> None:
    generator = torch.Generator().manual_seed(0)
    reference, predicted = (torch.rand(12, 10, 8, generator=generator) > 0.6 for _ in range(2))
    spacing = (0.7, 1.0, 4.0)
    (measures,) = measure_labels(predicted.to(torch.uint8), reference.to(torch.uint8), 2, spacing)
    masks = [mask.float()[None, None] for mask in (predicted, reference)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        hd95 = compute_hausdorff_distance(*masks, include_background=True, percentile=95, spacing=list(spacing))
        assd = compute_average_surface_distance(*masks, include_background=True, symmetric=True, spacing=list(spacing))
    assert measures.hd95_mm == pytest.approx(float(hd95))
    assert measures.assd_mm == pytest.approx(float(assd))


def test_labels_that_are_absent() -> None:
    """A label that the reference lacks says nothing; one that the prediction lacks counts with the diagonal."""
    empty = torch.zeros(24, 12, 12, dtype=torch.uint8)
    (unasked,) = measure_labels(cube(4), empty, 2, (1, 1, 1))
    assert all(math.isnan(value) for value in (unasked.dice, unasked.hd95_mm, unasked.assd_mm, unasked.volume_bias))
    (missed,) = measure_labels(empty, cube(4), 2, (2, 1, 1))
    diagonal = math.sqrt(48**2 + 12**2 + 12**2)
    assert (missed.dice, missed.hd95_mm, missed.assd_mm, missed.volume_bias) == (0, diagonal, diagonal, -1)


def test_volume_bias_has_a_sign() -> None:
    larger = cube(4)
    larger[8:10, 3:9, 3:9] = 1
    assert measure_labels(larger, cube(4), 2, (1, 1, 1))[0].volume_bias == pytest.approx(0.5)
    assert measure_labels(cube(4), larger, 2, (1, 1, 1))[0].volume_bias == pytest.approx(-1 / 3)


def test_the_interval_of_a_mean() -> None:
    """On a large normal sample it is that of the normal theory; degenerate samples have an answer too."""
    sample = np.random.default_rng(0).normal(3, 2, size=400)
    estimate = mean_over_subjects([*sample.tolist(), math.nan])
    half = 1.96 * sample.std(ddof=1) / 20
    assert estimate.mean == pytest.approx(sample.mean())
    assert (estimate.low, estimate.high) == pytest.approx((sample.mean() - half, sample.mean() + half), abs=0.03)
    assert estimate == mean_over_subjects(sample.tolist())
    same = mean_over_subjects([2.0, 2.0, 2.0])
    assert (same.mean, same.low, same.high) == (2, 2, 2)
    assert math.isnan(mean_over_subjects([1.0]).low)
    assert math.isnan(mean_over_subjects([]).mean)


def test_an_interval_over_several_trainings_knows_how_they_differ() -> None:
    """Subjects differ by 1 and trainings by 5: the interval over both is about as wide as the trainings differ."""
    rng = np.random.default_rng(0)
    subjects, trainings = rng.normal(0, 1, size=(60, 1)), rng.normal(10, 5, size=(1, 12))
    both = mean_over_subjects(subjects + trainings)
    assert both.mean == pytest.approx(float((subjects + trainings).mean()))
    half = 1.96 * float(trainings.std()) / math.sqrt(12)
    assert (both.high - both.low) / 2 == pytest.approx(half, rel=0.2)
    one = mean_over_subjects(subjects[:, 0])
    alike = mean_over_subjects(np.repeat(subjects, 3, axis=1))
    assert alike.high - alike.low == pytest.approx(one.high - one.low, rel=0.1)
    gap = np.repeat(subjects, 3, axis=1)
    gap[0, 1] = math.nan
    assert mean_over_subjects(gap).mean == pytest.approx(float(subjects[1:].mean()))


def test_outliers_are_named() -> None:
    values = {f"patient {number}": number / 100 for number in range(20)}
    assert far_out(values) == []
    assert far_out({**values, "patient 77": 0.9, "patient 78": math.nan}) == ["patient 77"]
    assert far_out({}) == []


def test_paired_tests_and_their_correction() -> None:
    """Six differences of one sign: 2 of 2^6 sign patterns are as extreme. Holm by hand: 3 x .01, 2 x .02, then .04."""
    assert paired_p_value([1, 2, 3, 4, 5, 6]) == pytest.approx(2 / 64)
    assert paired_p_value([1, -2, 3, -4, 5, -5.5]) > 0.5
    assert math.isnan(paired_p_value([0.0, 0.0]))
    adjusted = holm([0.02, 0.01, math.nan, 0.04])
    assert adjusted[:2] == pytest.approx([0.04, 0.03])
    assert math.isnan(adjusted[2])
    assert adjusted[3] == pytest.approx(0.04)
