"""Batches that share one random spacing. A batch is a pure function of (seed, iteration): resuming needs no more."""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn import functional
from torch.utils.data import Dataset

from unet_factory.model.resampling import smoothing_matrix
from unet_factory.spacing import SnappedSpacing, SpacingGrid
from unet_factory_training.augmentation import random_positions_mm, vary_intensity
from unet_factory_training.config import TrainingConfig
from unet_factory_training.datasets import Scan


@dataclass(frozen=True)
class Batch:
    """``images`` (batch, 1, r, a, s) float32, ``labels`` (batch, 1, r, a, s) int64, one spacing for all."""

    images: Tensor
    labels: Tensor
    spacing: SnappedSpacing
    names: tuple[str, ...]


class SpacingBatches(Dataset[Batch]):
    """Item i is the batch of iteration i."""

    def __init__(self, scans: list[Scan], config: TrainingConfig) -> None:
        self.scans, self.config, self.grid = scans, config, config.grid

    def __len__(self) -> int:
        return self.config.optimisation.iterations

    def __getitem__(self, iteration: int) -> Batch:
        generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + iteration)
        spacing = draw_spacing(self.grid, self.scans, self.config, generator)
        patch = self._patch(spacing)
        scans = self._draw_scans(patch, generator)
        drawn = [draw_patch(scan, spacing, patch, self.config, generator) for scan in scans]
        images, labels = zip(*drawn, strict=True)
        return Batch(
            torch.stack(images)[:, None], torch.stack(labels)[:, None], spacing, tuple(scan.name for scan in scans)
        )

    def _patch(self, spacing: SnappedSpacing) -> tuple[int, ...]:
        """Large enough for the largest scan at this spacing, within ``max_patch``, divisible as the network wants."""
        divisor = self.config.architecture.divisor
        extents_mm = torch.stack([torch.tensor(s.image.shape) * torch.tensor(s.spacing_ras_mm) for s in self.scans])
        wanted = extents_mm.quantile(0.9, dim=0) / torch.tensor(spacing.mm)
        return tuple(
            min(limit, max(2, -(-int(extent) // divisor)) * divisor)
            for extent, limit in zip(wanted.ceil(), self.config.batch.max_patch, strict=True)
        )

    def _draw_scans(self, patch: tuple[int, ...], generator: Generator) -> list[Scan]:
        batch = self.config.batch
        affordable = batch.voxels // (patch[0] * patch[1] * patch[2])
        count = min(max(affordable, batch.min_scans), batch.max_scans, len(self.scans))
        return [self.scans[int(i)] for i in torch.randperm(len(self.scans), generator=generator)[:count]]


def draw_spacing(grid: SpacingGrid, scans: list[Scan], config: TrainingConfig, generator: Generator) -> SnappedSpacing:
    """One spacing for a batch, snapped and within the trained range."""
    sampling = config.sampling
    low, high = (torch.tensor(ends) for ends in zip(*grid.range_mm, strict=True))
    choice, position = torch.rand((), generator=generator), torch.rand(3, generator=generator)
    if choice < sampling.uniform:
        drawn = low + position * (high - low)
    elif choice < sampling.uniform + sampling.log_uniform:
        drawn = low * (high / low) ** position
    else:
        drawn = torch.tensor(scans[int(torch.randint(len(scans), (), generator=generator))].spacing_ras_mm)
    return grid.clamp(grid.snap(drawn.tolist()))


def draw_patch(
    scan: Scan, spacing: SnappedSpacing, patch: tuple[int, ...], config: TrainingConfig, generator: Generator
) -> tuple[Tensor, Tensor]:
    """An augmented crop of a scan at ``spacing``: image (r, a, s) z-scored, labels (r, a, s) int64."""
    classes = config.architecture.classes
    one_hot = [scan.labels == value for value in range(classes)]
    channels = _smooth(torch.stack([scan.image, *one_hot]).float(), scan, spacing)
    centre = _draw_centre_mm(scan, spacing, patch, generator)
    positions = random_positions_mm(patch, spacing.mm, centre, config.augmentation, generator)
    half_mm = torch.tensor([n * mm / 2 for n, mm in zip(scan.image.shape, scan.spacing_ras_mm, strict=True)])
    normalised = positions / half_mm
    inside = (normalised.abs() <= 1).all(dim=-1)
    sampled = functional.grid_sample(
        channels[None], normalised.flip(-1)[None], mode="bilinear", padding_mode="border", align_corners=False
    )[0]
    image = vary_intensity(_zscore_inside(sampled[0], inside), inside, config.augmentation, generator)
    labels = sampled[1:].argmax(dim=0)
    return _zscore_inside(image, inside), labels * inside


def _smooth(channels: Tensor, scan: Scan, spacing: SnappedSpacing) -> Tensor:
    for axis, (mm, native_mm) in enumerate(zip(spacing.mm, scan.spacing_ras_mm, strict=True)):
        if mm > native_mm:
            profile = smoothing_matrix(channels.shape[1 + axis], mm / native_mm)
            channels = torch.tensordot(channels, profile, dims=([1 + axis], [1])).movedim(-1, 1 + axis)
    return channels


def _draw_centre_mm(scan: Scan, spacing: SnappedSpacing, patch: tuple[int, ...], generator: Generator) -> Tensor:
    """Uniform over the centres that keep the patch within the scan; the scan's own centre where it fits whole."""
    room = [
        max(0.0, n * native - size * mm) / 2
        for n, native, size, mm in zip(scan.image.shape, scan.spacing_ras_mm, patch, spacing.mm, strict=True)
    ]
    return torch.tensor(room) * (2 * torch.rand(3, generator=generator) - 1)


def _zscore_inside(image: Tensor, inside: Tensor) -> Tensor:
    """z-score over the voxels inside the scan, zero outside, as padding is in inference."""
    values = image[inside]
    return (image - values.mean()) / values.std(correction=0).clamp(min=1e-6) * inside
