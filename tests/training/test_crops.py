"""Crops: how large, of how many scans, from where, and what each voxel of them sees."""

from dataclasses import replace

import pytest
import torch

from tests.fixtures.training_data import STILL
from unet_factory.domain.conditions import Condition
from unet_factory.domain.manifest import Pooling
from unet_factory.domain.spacing import SnappedSpacing
from unet_factory_training.batches import SpacingBatches, draw_patch
from unet_factory_training.config import BatchConfig, SpacingSampling, TrainingConfig
from unet_factory_training.contrast import INVERSION_TIME, InversionRecovery
from unet_factory_training.datasets import LabelledScan

NATIVE = SpacingSampling(uniform=0, native=1)


def scan_of(
    shape: tuple[int, int, int], spacing_ras_mm: tuple[float, float, float], name: str = "scan"
) -> LabelledScan:
    """Each voxel's value is its place: 1 for a step along R, 100 along A, 10 000 along S."""
    r, a, s = (torch.arange(float(extent)) for extent in shape)
    image = r[:, None, None] + 100 * a[None, :, None] + 10_000 * s[None, None, :]
    return LabelledScan(name, image, torch.zeros(shape, dtype=torch.uint8), spacing_ras_mm)


def still(config: TrainingConfig, **batch_fields: object) -> TrainingConfig:
    batch = BatchConfig.model_validate({"max_patch": (64, 64, 64), **batch_fields})
    return config.model_copy(update={"augmentation": STILL, "batch": batch, "sampling": NATIVE})


def extents(config: TrainingConfig, *scans: LabelledScan) -> tuple[int, ...]:
    return tuple(SpacingBatches(list(scans), config)[0].images.shape[2:])


@pytest.mark.parametrize(
    ("shape", "limits", "limits_mm", "expected"),
    [
        ((20, 24, 30), (64, 64, 64), None, (20, 24, 30)),
        ((19, 23, 29), (64, 64, 64), None, (20, 24, 30)),
        ((20, 24, 30), (16, 17, 64), None, (16, 16, 30)),
        ((20, 24, 30), (64, 64, 64), (10.0, 100.0, 18.0), (10, 12 * 2, 6)),
        ((2, 1, 30), (64, 64, 64), None, (4, 4, 30)),
        ((20, 24, 30), (3, 1, 64), None, (2, 2, 30)),
    ],
)
def test_a_crop_holds_the_scan_within_the_limits(
    config: TrainingConfig,
    shape: tuple[int, int, int],
    limits: tuple[int, int, int],
    limits_mm: tuple[float, float, float] | None,
    expected: tuple[int, int, int],
) -> None:
    """In multiples of 2 here, two of them at least unless the limit is lower; along S a voxel is 3 mm."""
    bounded = still(config, max_patch=limits, max_patch_mm=limits_mm, min_scans=1)
    assert extents(bounded, scan_of(shape, (1.0, 1.0, 3.0))) == expected


def test_a_crop_is_as_large_as_nine_scans_in_ten(config: TrainingConfig) -> None:
    """Along each axis on its own: 11 scans of 10, 12, ... 30 voxels, of which the tenth has 28."""
    scans = [scan_of((10 + 2 * n, 30 - 2 * n, 16), (1.0, 1.0, 1.0)) for n in range(11)]
    assert extents(still(config, min_scans=1), *scans) == (28, 28, 16)


def test_an_axis_that_is_not_halved_needs_no_even_extent(config: TrainingConfig) -> None:
    flat = config.architecture.model_copy(update={"pooling": Pooling(anisotropy=2)})
    bounded = still(config, min_scans=1).model_copy(update={"architecture": flat})
    assert extents(bounded, scan_of((20, 21, 7), (1.0, 1.0, 3.0))) == (20, 22, 7)


@pytest.mark.parametrize(
    ("voxels", "least", "most", "expected"),
    [(3 * 480, 1, 9, 3), (3 * 480 - 1, 1, 9, 2), (1, 2, 9, 2), (10**6, 1, 4, 4), (10**6, 1, 9, 5)],
)
def test_a_batch_has_the_scans_that_its_work_affords(
    config: TrainingConfig, voxels: int, least: int, most: int, expected: int
) -> None:
    """Of 8 x 10 x 6 voxels each; none twice."""
    scans = [scan_of((8, 10, 6), (1.0, 1.0, 1.0), f"scan {n}") for n in range(5)]
    batches = SpacingBatches(scans, still(config, voxels=voxels, min_scans=least, max_scans=most))
    for batch in (batches[iteration] for iteration in range(5)):
        assert len(batch.names) == len(set(batch.names)) == len(batch.images) == expected
    if expected < len(scans):
        assert len({batches[iteration].names for iteration in range(5)}) > 1


def test_no_batch_comes_again(config: TrainingConfig, scans: list[LabelledScan]) -> None:
    """Neither within a run nor in one of another seed; and a run has as many as its steps consume."""
    optimisation = config.optimisation.model_copy(update={"iterations": 7, "batches_per_step": 3})
    assert len(SpacingBatches(scans, config.model_copy(update={"optimisation": optimisation}))) == 21
    seeds = [config.model_copy(update={"seed": seed}) for seed in (1, 2, 3)]
    found = [SpacingBatches(scans, one)[iteration].images for one in seeds for iteration in range(6)]
    sums = {float(images.double().sum()) for images in found}
    assert len(sums) == len(found)


def test_groups_are_drawn_by_their_size(config: TrainingConfig) -> None:
    """Three scans at 3 T and one at 1.5 T: one batch in four is at 1.5 T."""
    field = Condition(name="field_strength_t", minimum=0.5, maximum=3, step=0.5, default=1.5)
    scans = [
        replace(
            scan_of((6, 6, 6), (1.0, 1.0, 1.0), f"scan {n}"),
            conditions={field.name: 3.0 if n else 1.5, "age": 50.0 + n},
        )
        for n in range(4)
    ]
    told = still(config, min_scans=1, max_scans=9).model_copy(update={"conditions": (field,)})
    batches = [SpacingBatches(scans, told)[iteration] for iteration in range(200)]
    weak = [batch for batch in batches if batch.conditions == (1.5,)]
    assert all(batch.names == ("scan 0",) for batch in weak)
    assert all(len(batch.names) == 3 for batch in batches if batch.conditions == (3.0,))
    assert len(weak) / len(batches) == pytest.approx(0.25, abs=0.08)


def test_a_simulated_contrast_is_the_batchs_condition(config: TrainingConfig, scans: list[LabelledScan]) -> None:
    time = Condition(name=INVERSION_TIME, minimum=400, maximum=1600, step=10, default=1600)
    changes = {"conditions": (time,), "contrast": InversionRecovery(inversion_time_ms=(400, 1600))}
    batches = SpacingBatches(scans, config.model_copy(update=changes))
    found = {batches[iteration].conditions for iteration in range(8)}
    assert len(found) == 8
    assert all(400 <= milliseconds <= 1600 for (milliseconds,) in found)


@pytest.mark.parametrize("corner", [(0, 0, 0), (14, 0, 9), (14, 20, 9), (0, 20, 0)])
def test_a_crop_about_a_labelled_voxel_holds_it(config: TrainingConfig, corner: tuple[int, int, int]) -> None:
    """Even in a corner of the scan, where the crop then ends, too; else anywhere within the scan."""
    scan = scan_of((15, 21, 10), (1.0, 1.0, 2.0))
    labels = scan.labels.clone()
    labels[corner] = 1
    scan, spacing = replace(scan, labels=labels), SnappedSpacing(1000, 1000, 2000)
    around, anywhere = still(config, foreground=1.0), still(config)
    for seed in range(6):
        image, found = draw_patch(scan, spacing, (4, 4, 4), around, torch.Generator().manual_seed(seed))
        assert int(found.sum()) == 1
        assert image[found.bool()].item() == pytest.approx(float(scan.image[corner]), rel=1e-4)
        ends = tuple(0 if place == 0 else 3 for place in corner)
        assert found[ends] == 1
    held = [
        int(draw_patch(scan, spacing, (4, 4, 4), anywhere, torch.Generator().manual_seed(seed))[1].sum())
        for seed in range(40)
    ]
    assert sum(held) < 4


def test_a_crop_in_the_middle_is_centred_on_a_labelled_voxel(config: TrainingConfig) -> None:
    scan = scan_of((41, 41, 41), (1.0, 1.0, 1.0))
    labels = scan.labels.clone()
    labels[18, 20, 25] = 2
    scan = replace(scan, labels=labels)
    drawn = draw_patch(
        scan,
        SnappedSpacing(1000, 1000, 1000),
        (5, 7, 9),
        still(config, foreground=1.0),
        torch.Generator().manual_seed(0),
    )
    assert drawn[1][2, 3, 4] == 2
    assert int((drawn[1] > 0).sum()) == 1
    torch.testing.assert_close(drawn[0], scan.image[16:21, 17:24, 21:30])


@pytest.mark.parametrize(("axis", "room"), [(0, 20), (1, 10), (2, 0)])
def test_crops_lie_anywhere_within_the_scan(config: TrainingConfig, axis: int, room: int) -> None:
    """Uniformly: the first voxel lies from 0 to ``room`` along an axis, as far as the scan exceeds the crop."""
    scan, spacing = scan_of((24, 14, 4), (1.0, 1.0, 1.0)), SnappedSpacing(1000, 1000, 1000)
    scan = replace(scan, image=torch.meshgrid(*(torch.arange(float(n)) for n in (24, 14, 4)), indexing="ij")[axis])
    first = torch.stack(
        [
            draw_patch(scan, spacing, (4, 4, 4), still(config), torch.Generator().manual_seed(seed))[0][0, 0, 0]
            for seed in range(300)
        ]
    )
    expected = torch.linspace(0, room, 300)
    assert float((first.sort().values - expected).abs().max()) <= 0.08 * room + 1e-3


def test_a_crop_of_whole_voxels_is_a_piece_of_the_scan(config: TrainingConfig) -> None:
    """At the scan's own spacing nothing is smoothed or interpolated, and beyond the scan all is zero."""
    scan, spacing = scan_of((6, 8, 4), (1.0, 1.5, 2.0)), SnappedSpacing(1000, 1500, 2000)
    labels = (scan.image % 3).to(torch.uint8)
    scan = replace(scan, labels=labels)
    image, found = draw_patch(scan, spacing, (8, 8, 6), still(config), torch.Generator().manual_seed(0))
    torch.testing.assert_close(image[1:-1, :, 1:-1], scan.image, rtol=1e-5, atol=1e-2)
    assert torch.equal(found[1:-1, :, 1:-1], labels.long())
    for outside in (image[0], image[-1], image[:, :, 0], image[:, :, -1]):
        assert not outside.any()
    assert found.dtype == torch.int64


def test_a_crop_shows_the_scan_to_its_very_edge(config: TrainingConfig) -> None:
    """Half a voxel beyond the centres of the outermost voxels, their values still hold."""
    scan = replace(scan_of((6, 6, 6), (1.0, 1.0, 1.0)), image=torch.full((6, 6, 6), 7.0))
    image, _ = draw_patch(scan, SnappedSpacing(500, 500, 500), (12, 12, 12), still(config), torch.Generator())
    torch.testing.assert_close(image, torch.full((12, 12, 12), 7.0))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_far_coarser_voxels_see_a_ramp_as_it_is(config: TrainingConfig, axis: int) -> None:
    """However few of the smoothed voxels are kept: at ratios of 2, 5 and 8 the ramp's values at the voxels' centres."""
    ramp = torch.linspace(0, 1, 80)
    shape = [1, 1, 1]
    shape[axis] = 80
    image = ramp.view(shape).expand(*(80 if other == axis else 4 for other in range(3))).contiguous()
    scan = LabelledScan("ramp", image, torch.zeros(image.shape, dtype=torch.uint8), (1.0, 1.0, 1.0))
    for ratio in (2, 5, 8):
        um = tuple(1000 * ratio if other == axis else 1000 for other in range(3))
        patch = tuple(80 // ratio if other == axis else 4 for other in range(3))
        seen, _ = draw_patch(scan, SnappedSpacing(*um), patch, still(config), torch.Generator().manual_seed(0))
        middle = [2, 2, 2]
        profile = seen.movedim(axis, 0)[:, middle[0], middle[1]]
        extent = 80 // ratio
        expected = 0.5 + (torch.arange(extent) - (extent - 1) / 2) * ratio / 79
        torch.testing.assert_close(profile[2:-2], expected[2:-2], rtol=0, atol=2e-4)
