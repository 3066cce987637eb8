"""Batches that share one random spacing, and conditions where there are any. A batch is a pure function of
(seed, iteration): resuming needs no more."""

from dataclasses import replace
from functools import cached_property

import torch
from torch import Generator, Tensor
from torch.nn import functional
from torch.utils.data import Dataset

from unet_factory.domain.conditions import SnappedConditions, choose_conditions
from unet_factory.domain.errors import DatasetInvalid
from unet_factory.domain.manifest import divisors_of
from unet_factory.domain.spacing import SnappedSpacing, SpacingGrid
from unet_factory.model.preprocessing import intensity_scale, resample, smoothing_matrix
from unet_factory_training.augmentation import random_positions_mm, vary_intensity
from unet_factory_training.batch import Batch
from unet_factory_training.coarser_view import with_coarser_view
from unet_factory_training.config import TrainingConfig
from unet_factory_training.contrast import INVERSION_TIME, with_inversion_time
from unet_factory_training.datasets import LabelledScan
from unet_factory_training.evaluation import simulate


class SpacingBatches(Dataset[Batch]):
    """Item i is the i-th batch of a run; where the scans are on a GPU, so are the batches."""

    def __init__(self, scans: list[LabelledScan], config: TrainingConfig) -> None:
        self.scans, self.config, self.grid = scans, config, config.grid

    def __len__(self) -> int:
        return self.config.optimisation.iterations * self.config.optimisation.batches_per_step

    def __getitem__(self, iteration: int) -> Batch:
        generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + iteration)
        spacing = draw_spacing(self.grid, self.scans, self.config, generator)
        patch = self._patch(spacing)
        acquired = [self._as_acquired(scan, generator) for scan in self._draw_scans(patch, generator)]
        scans = [zscored_at(scan, spacing) for scan in acquired]
        drawn = [
            draw_patch(scan, spacing, patch, self.config, generator, around)
            for scan, around in zip(scans, self._draw_around(len(scans), generator), strict=True)
        ]
        images, labels = zip(*drawn, strict=True)
        batch = Batch(
            torch.stack(images)[:, None],
            torch.stack(labels)[:, None],
            spacing,
            tuple(scan.name for scan in scans),
            choose_conditions(self.config.conditions, scans[0].conditions),
        )
        return batch if self.config.sampling.views == 1 else with_coarser_view(batch, scans, self.config, generator)

    def _patch(self, spacing: SnappedSpacing) -> tuple[int, ...]:
        """Large enough for the largest scans at this spacing, within the limits, divisible as the network wants."""
        bounds, divisors = self.config.batch, divisors_of(self.config.architecture.strides(spacing))
        if bounds.pad_to_max_patch:
            return bounds.max_patch
        extents_mm = torch.stack([torch.tensor(s.image.shape) * torch.tensor(s.spacing_ras_mm) for s in self.scans])
        wanted_mm = extents_mm.quantile(0.9, dim=0)
        if bounds.max_patch_mm is not None:
            wanted_mm = wanted_mm.minimum(torch.tensor(bounds.max_patch_mm))
        wanted = (wanted_mm / torch.tensor(spacing.mm)).ceil().tolist()
        return tuple(
            max(1, min(limit // divisor, max(2, -(-int(extent) // divisor)))) * divisor
            for extent, limit, divisor in zip(wanted, bounds.max_patch, divisors, strict=True)
        )

    def _draw_scans(self, patch: tuple[int, ...], generator: Generator) -> list[LabelledScan]:
        batch, contrast = self.config.batch, self.config.contrast
        candidates = self._draw_alike(generator)
        affordable = batch.voxels // (patch[0] * patch[1] * patch[2])
        count = min(max(affordable, batch.min_scans), batch.max_scans, len(candidates))
        drawn = [candidates[int(i)] for i in torch.randperm(len(candidates), generator=generator)[:count]]
        if contrast is None:
            return drawn
        inversion_time_ms = contrast.draw(generator)
        return [with_inversion_time(scan, inversion_time_ms) for scan in drawn]

    def _as_acquired(self, scan: LabelledScan, generator: Generator) -> LabelledScan:
        """The scan and its labels as acquired at a spacing drawn for it alone; itself where none is to be drawn."""
        if self.config.sampling.acquired_mm is None:
            return scan
        spacing_mm = draw_spacing(self.config.acquired_grid, [scan], self.config, generator).mm
        simulated = simulate(scan, spacing_mm, self.config.architecture.classes)
        return replace(scan, image=simulated.image, labels=simulated.labels, spacing_ras_mm=spacing_mm)

    def _draw_around(self, crops: int, generator: Generator) -> list[float]:
        """For each crop of a batch, the probability that it lies around a labelled voxel."""
        batch = self.config.batch
        if batch.foreground_crops == "drawn":
            return [batch.foreground] * crops
        whole, rest = divmod(crops * batch.foreground, 1)
        count = int(whole) + int(float(torch.rand((), generator=generator)) < rest)
        return [0.0] * (crops - count) + [1.0] * count

    def _draw_alike(self, generator: Generator) -> list[LabelledScan]:
        """The scans that were acquired as one of them that is drawn: all, where the data set tells nothing of that."""
        groups = list(self._groups.values())
        if len(groups) == 1:
            return groups[0]
        sizes = torch.tensor([float(len(group)) for group in groups])
        return groups[int(torch.multinomial(sizes, 1, generator=generator))]

    @cached_property
    def _groups(self) -> dict[SnappedConditions, list[LabelledScan]]:
        """
        Raises:
            DatasetInvalid: a scan does not tell a condition that nothing simulates.
        """
        simulated = {INVERSION_TIME} if self.config.contrast else set()
        wanted = {condition.name for condition in self.config.conditions} - simulated
        groups: dict[SnappedConditions, list[LabelledScan]] = {}
        for scan in self.scans:
            if missing := sorted(wanted - set(scan.conditions)):
                raise DatasetInvalid(
                    f"{scan.name}: there is no value for {', '.join(missing)}; name a file in dataset.conditions"
                )
            groups.setdefault(choose_conditions(self.config.conditions, scan.conditions), []).append(scan)
        return groups


def draw_spacing(
    grid: SpacingGrid, scans: list[LabelledScan], config: TrainingConfig, generator: Generator
) -> SnappedSpacing:
    """One spacing, snapped and within ``grid``'s range: a batch's within the trained range, or one scan's."""
    sampling = config.sampling
    low, high = (torch.tensor(ends) for ends in zip(*grid.range_mm, strict=True))
    choice, position = torch.rand((), generator=generator), torch.rand(3, generator=generator)
    if choice < sampling.uniform:
        drawn = low + (position + sampling.overshoot * (2 * position - 1)).clamp(0, 1) * (high - low)
    elif choice < sampling.uniform + sampling.log_uniform:
        drawn = low * (high / low) ** position
    else:
        drawn = torch.tensor(scans[int(torch.randint(len(scans), (), generator=generator))].spacing_ras_mm)
    return grid.clamp(grid.snap(drawn.tolist()))


def zscored_at(scan: LabelledScan, spacing: SnappedSpacing) -> LabelledScan:
    """The scan on its own grid, scaled to be z-scored once it is at ``spacing``: inference, too, resamples first.

    Raises:
        NoContrast: at that spacing all voxels are alike.
    """
    mean, spread = intensity_scale(resample(scan.image, scan.spacing_ras_mm, spacing.mm))
    return replace(scan, image=(scan.image - mean) / spread)


def draw_patch(
    scan: LabelledScan,
    spacing: SnappedSpacing,
    patch: tuple[int, ...],
    config: TrainingConfig,
    generator: Generator,
    foreground: float | None = None,
) -> tuple[Tensor, Tensor]:
    """An augmented crop of a scan at ``spacing``: image (r, a, s) as scaled as the scan, labels (r, a, s) int64.

    Outside the scan both are zero, as padding is in inference.

    Args:
        foreground: the probability that the crop lies around a labelled voxel; by default that of ``config.batch``.
    """
    probability = config.batch.foreground if foreground is None else foreground
    by_label = config.batch.foreground_crops == "counted"
    centre = _draw_centre_mm(scan, spacing, patch, probability, generator, by_label=by_label)
    device = scan.image.device
    positions = random_positions_mm(patch, spacing.mm, centre, config.augmentation, generator, device)
    half_mm = torch.tensor([n * mm / 2 for n, mm in zip(scan.image.shape, scan.spacing_ras_mm, strict=True)])
    half_mm = half_mm.to(device)
    one_voxel = torch.tensor([n == 1 for n in scan.image.shape], device=device)
    positions = positions.masked_fill(one_voxel, 0.0)  # a single slice has nothing before or behind it
    inside = (positions.abs() <= half_mm).all(dim=-1)
    sampled = _sample(scan, config.architecture.classes, positions, spacing)
    image = vary_intensity(sampled[0], inside, config.augmentation, generator)
    return image * inside, _largest(sampled[1:]) * inside


def _sample(scan: LabelledScan, classes: int, positions_mm: Tensor, spacing: SnappedSpacing) -> Tensor:
    """(1 + classes, r, a, s): image and label shares at (r, a, s, 3) positions, seen through the voxels' profile.

    Only the part of the scan that the positions need is smoothed, and where the profile is wide only every few voxels
    of it: linear interpolation between smoothed voxels half a working voxel apart loses nothing.
    """
    ratios = [max(1.0, mm / native) for mm, native in zip(spacing.mm, scan.spacing_ras_mm, strict=True)]
    middle, native_mm = (torch.tensor(scan.image.shape) - 1) / 2, torch.tensor(scan.spacing_ras_mm)
    index = positions_mm / native_mm.to(positions_mm) + middle.to(positions_mm)
    box = [
        _needed(index[..., axis], extent, ratio)
        for axis, (extent, ratio) in enumerate(zip(scan.image.shape, ratios, strict=True))
    ]
    part = tuple(slice(first, last) for first, last in box)
    channels = torch.stack([scan.image[part], *(scan.labels[part] == value for value in range(classes))])
    normalised = []
    for axis, ((first, last), ratio) in enumerate(zip(box, ratios, strict=True)):
        step = max(1, int(ratio / 2))
        if ratio > 1:
            profile = smoothing_matrix(last - first, ratio)[::step].to(channels)
            channels = torch.tensordot(channels, profile, dims=([1 + axis], [1])).movedim(-1, 1 + axis)
        normalised.append((2 * (index[..., axis] - first) / step + 1) / channels.shape[1 + axis] - 1)
    return functional.grid_sample(
        channels[None],
        torch.stack(normalised[::-1], dim=-1)[None],
        mode="bilinear",
        padding_mode="border",
        align_corners=False,
    )[0]


def _largest(shares: Tensor) -> Tensor:
    """(classes, r, a, s) -> (r, a, s) int64: the class with the largest share, the first of equals.

    What argmax gives, which takes ten times as long over an axis of few, far apart values.
    """
    largest, labels = shares[0], torch.zeros_like(shares[0], dtype=torch.int64)
    for value in range(1, len(shares)):
        larger = shares[value] > largest
        largest = torch.where(larger, shares[value], largest)
        labels = torch.where(larger, value, labels)
    return labels


def _needed(index: Tensor, extent: int, ratio: float) -> tuple[int, int]:
    """The range of voxels along an axis that positions at ``index`` see through a profile ``ratio`` voxels wide."""
    margin = 2 * ratio + 1  # above four standard deviations of the profile
    first = int(max(0, min(float(index.min()) - margin, extent - 2)))
    return first, int(min(extent, max(float(index.max()) + margin + 2, first + 2)))


def _draw_centre_mm(
    scan: LabelledScan,
    spacing: SnappedSpacing,
    patch: tuple[int, ...],
    foreground: float,
    generator: Generator,
    *,
    by_label: bool,
) -> Tensor:
    """A centre that keeps the patch within the scan; the scan's own centre where it fits whole.

    Uniform, or with probability ``foreground`` as near as can be to a labelled voxel; ``by_label``: to one of a label
    that is drawn first.
    """
    room = torch.tensor(
        [
            max(0.0, n * native - size * mm) / 2
            for n, native, size, mm in zip(scan.image.shape, scan.spacing_ras_mm, patch, spacing.mm, strict=True)
        ]
    )
    position = 2 * torch.rand(3, generator=generator) - 1
    choice, pick = torch.rand(2, generator=generator).tolist()
    if choice >= foreground or not len(scan.foreground):
        return room * position
    voxels = scan.foreground
    if by_label:
        labels = scan.foreground_by_label
        voxels = labels[int(torch.randint(len(labels), (), generator=generator))]
    chosen = voxels[int(pick * len(voxels))].cpu()
    target = (chosen + 0.5) * torch.tensor(scan.spacing_ras_mm) - torch.tensor(
        [n * mm / 2 for n, mm in zip(scan.image.shape, scan.spacing_ras_mm, strict=True)]
    )
    return torch.maximum(torch.minimum(target, room), -room)
