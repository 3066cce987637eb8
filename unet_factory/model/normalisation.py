"""How intensities are prepared before the network sees them."""

from torch import Tensor


def zscore(volume: Tensor) -> Tensor:
    """(r, a, s) -> the same with zero mean and unit variance over all voxels; a constant volume becomes zero."""
    volume = volume.float()
    centred = volume - volume.mean()
    return centred / volume.std(correction=0).clamp(min=1e-6)
