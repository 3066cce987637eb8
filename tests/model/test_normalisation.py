"""Intensities before the network: by hand."""

import torch

from unet_factory.model.preprocessing import zscore


def test_zscore_of_four_voxels() -> None:
    """Mean 5, spread the root of ((-3)² + (-1)² + 1² + 3²) / 4 = 5."""
    volume = torch.tensor([2.0, 4.0, 6.0, 8.0]).view(4, 1, 1)
    expected = torch.tensor([-1.341641, -0.447214, 0.447214, 1.341641]).view(4, 1, 1)
    torch.testing.assert_close(zscore(volume), expected, rtol=1e-5, atol=1e-6)
