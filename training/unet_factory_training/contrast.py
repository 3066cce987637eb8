"""Contrasts that a scan was not acquired with, computed from the one it was: a condition whose truth is known."""

from dataclasses import replace
from zlib import crc32

import torch
from torch import Generator

from unet_factory.domain.frozen import Frozen
from unet_factory.domain.spacing import SpacingMm
from unet_factory.model.preprocessing import zscore
from unet_factory_training.datasets import LabelledScan

INVERSION_TIME = "inversion_time_ms"

# Relaxation rates at 3 T of what is darkest and brightest in a T1-weighted brain scan, cerebrospinal fluid and white
# matter: T1 of about 4000 and 830 ms. Grey matter, 1330 ms, then lies in the middle, as it does in the scans
# (Wansapura et al., JMRI 9:531, 1999).
_DARK_PER_MS, _BRIGHT_PER_MS = 1 / 4000, 1 / 830
_ENDS = (0.01, 0.99)  # quantiles of the intensities that stand for them


class InversionRecovery(Frozen):
    """T1-weighted scans as an inversion-recovery sequence would show them, magnitude images, at inversion times drawn
    from this range in ms: tissues vanish and change places as it grows.
    """

    inversion_time_ms: tuple[float, float]

    def draw(self, generator: Generator) -> float:
        low, high = self.inversion_time_ms
        return low + (high - low) * float(torch.rand((), generator=generator))

    def drawn_for(self, text: str) -> float:
        """The same for equal texts."""
        return self.draw(Generator().manual_seed(crc32(text.encode())))


def at_drawn_contrast(scan: LabelledScan, spacing_mm: SpacingMm, contrast: InversionRecovery | None) -> LabelledScan:
    """The scan at a contrast that is drawn for it and ``spacing_mm``, the same each time; as it is without any."""
    if contrast is None:
        return scan
    return with_inversion_time(scan, contrast.drawn_for(f"{scan.name} {spacing_mm}"))


def with_inversion_time(scan: LabelledScan, inversion_time_ms: float) -> LabelledScan:
    """The scan as inversion recovery would show it, z-scored; its conditions tell the inversion time.

    Signal |1 - 2 exp(-TI / T1)| for long repetition times; the rate 1 / T1 is taken to be linear in the intensity.
    """
    dark, bright = torch.quantile(scan.image.flatten(), torch.tensor(_ENDS, device=scan.image.device))
    brightness = ((scan.image - dark) / (bright - dark)).clamp(0, 1)
    rate_per_ms = _DARK_PER_MS + brightness * (_BRIGHT_PER_MS - _DARK_PER_MS)
    signal = (1 - 2 * torch.exp(-inversion_time_ms * rate_per_ms)).abs()
    conditions = {**scan.conditions, INVERSION_TIME: inversion_time_ms}
    return replace(scan, image=zscore(signal), conditions=conditions)
