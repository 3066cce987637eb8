"""How much a network's answer changes when its hypernetwork does."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.func import functional_call

from unet_factory.domain.manifest import Architecture
from unet_factory.domain.spacing import SnappedSpacing, SpacingMm
from unet_factory.model.hypernetwork import Weights
from unet_factory.model.inference import pad_to_divisors
from unet_factory.model.preprocessing import resample, zscore
from unet_factory.model.unet import empty_unet
from unet_factory.volume import read_volume

Generate = Callable[[SnappedSpacing], Weights]

_MAX_EXTENT = 48
_NOISE_SHAPE = (32, 32, 32)


@dataclass(frozen=True)
class Probe:
    """What networks are given: ``volume`` (r, a, s), resampled to their spacing; without ``spacing_mm``, as it is."""

    volume: Tensor
    spacing_mm: SpacingMm | None = None

    @classmethod
    def noise(cls, seed: int = 0) -> "Probe":
        """White noise: no scan is needed, and every filter is excited."""
        return cls(torch.randn(_NOISE_SHAPE, generator=torch.Generator().manual_seed(seed)))

    @classmethod
    def of_scan(cls, path: Path) -> "Probe":
        """A volume file's scan."""
        scan = read_volume(path)
        return cls(torch.from_numpy(scan.data), scan.spacing_ras_mm)

    def at(self, spacing: SnappedSpacing, divisors: Sequence[int]) -> Tensor:
        """(1, 1, r, a, s), z-scored, no more than 48 voxels along an axis around the centre."""
        volume = self.volume
        if self.spacing_mm is not None:
            volume = resample(volume, self.spacing_mm, spacing.mm)
        cut = [max(0, extent - _MAX_EXTENT) // 2 for extent in volume.shape]
        part = volume[tuple(slice(start, start + _MAX_EXTENT) for start in cut)]
        return pad_to_divisors(zscore(part), divisors)[None, None]


@dataclass(frozen=True)
class LogitChange:
    """The worst over some spacings. ``largest``: change of any logit of any voxel, relative to the largest logit at
    that spacing; ``rms``: root mean square of the change over that of the logits; ``classes``: share of voxels that
    change class.
    """

    largest: float
    rms: float
    classes: float


class LogitComparison:
    """Logits of a reference at some spacings, kept to compare candidates with."""

    def __init__(
        self, architecture: Architecture, reference: Generate, spacings: Sequence[SnappedSpacing], probe: Probe
    ) -> None:
        self._architecture, self._probe, self._spacings = architecture, probe, tuple(spacings)
        self._reference = [self._logits(reference, spacing) for spacing in self._spacings]

    def change(self, candidate: Generate) -> LogitChange:
        """The worst change over all spacings."""
        changes = [
            _change(expected, self._logits(candidate, spacing))
            for spacing, expected in zip(self._spacings, self._reference, strict=True)
        ]
        return LogitChange(
            max(change.largest for change in changes),
            max(change.rms for change in changes),
            max(change.classes for change in changes),
        )

    def _logits(self, generate: Generate, spacing: SnappedSpacing) -> Tensor:
        unet = empty_unet(self._architecture, spacing).eval()
        with torch.inference_mode():
            volume = self._probe.at(spacing, unet.divisors)
            logits: Tensor = functional_call(unet, generate(spacing), (volume,), strict=True)
        return logits.double()


def _change(expected: Tensor, found: Tensor) -> LogitChange:
    difference = found - expected
    return LogitChange(
        float(difference.abs().max() / expected.abs().max()),
        float(difference.norm() / expected.norm()),
        float((found.argmax(dim=1) != expected.argmax(dim=1)).double().mean()),
    )
