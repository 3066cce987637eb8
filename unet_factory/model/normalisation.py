"""How intensities are prepared before the network sees them."""

import torch
from torch import Tensor

from unet_factory.domain.errors import NoContrast


def zscore(volume: Tensor) -> Tensor:
    """(r, a, s) -> the same with zero mean and unit variance over all voxels.

    Raises:
        NoContrast: the voxels are all alike, or their spread is beyond float32. Such a scan would become all zeros,
            and a network sees anatomy even there.
    """
    volume = volume.float()
    mean, spread = volume.mean(), volume.std(correction=0)
    low, high = float(volume.min()), float(volume.max())
    if low == high or not torch.isfinite(spread):
        raise NoContrast(f"the intensities, {low:g} to {high:g}, must differ, and not by more than float32 holds")
    return (volume - mean) / spread
