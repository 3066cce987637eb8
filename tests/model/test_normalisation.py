"""Intensities before the network: by hand."""

import pytest
import torch

from unet_factory.domain.errors import NoContrast
from unet_factory.model.preprocessing import zscore


def test_zscore_of_four_voxels() -> None:
    """Mean 5, spread the root of ((-3)² + (-1)² + 1² + 3²) / 4 = 5."""
    volume = torch.tensor([2.0, 4.0, 6.0, 8.0]).view(4, 1, 1)
    expected = torch.tensor([-1.341641, -0.447214, 0.447214, 1.341641]).view(4, 1, 1)
    torch.testing.assert_close(zscore(volume), expected, rtol=1e-5, atol=1e-6)


def test_whole_numbers_are_normalised_as_floats() -> None:
    scores = zscore(torch.tensor([0, 2], dtype=torch.int16).view(2, 1, 1))
    assert scores.dtype == torch.float32
    assert scores.flatten().tolist() == [-1.0, 1.0]


@pytest.mark.parametrize(
    ("voxels", "extremes"),
    [([3.5, 3.5], "3.5 to 3.5"), ([0.0, float("inf")], "0 to inf"), ([0.0, float("nan")], "nan to nan")],
)
def test_what_has_no_spread_is_refused_by_its_extremes(voxels: list[float], extremes: str) -> None:
    with pytest.raises(NoContrast, match=f"the intensities, {extremes}, must differ"):
        zscore(torch.tensor(voxels).view(2, 1, 1))
