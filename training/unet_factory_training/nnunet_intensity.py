"""How nnU-Net varies intensities (v2, ``nnUNetTrainer.get_training_transforms``), by MONAI's transforms.

Probabilities are those of a single channel: nnU-Net blurs, and lowers the resolution of, half the channels only.
"""

from functools import lru_cache

import torch
from monai.transforms import (
    Compose,
    RandAdjustContrast,
    RandGaussianNoise,
    RandGaussianSmooth,
    RandScaleIntensity,
    RandScaleIntensityFixedMean,
    RandSimulateLowResolution,
)
from monai.utils import convert_to_tensor
from torch import Generator, Tensor

_SEEDS = 2**31


def nnunet_intensity(image: Tensor, generator: Generator) -> Tensor:
    """Noise, blur, brightness, contrast, simulated low resolution and gamma, each with a probability.

    Args:
        image: (r, a, s), z-scored. An axis of one voxel takes no part.

    Returns:
        (r, a, s), a function of the image and of the generator's state alone.
    """
    seed = int(torch.randint(_SEEDS, (), generator=generator))
    extended = image.squeeze()
    changes = _changes(extended.dim())
    changes.set_random_state(seed)
    changed: Tensor = convert_to_tensor(changes(extended[None]), track_meta=False)
    return changed.view(image.shape)


@lru_cache
def _changes(dimensions: int) -> Compose:
    sigma_voxels, factors, gamma = (0.5, 1.0), (-0.25, 0.25), (0.7, 1.5)
    linear = {1: "linear", 2: "bilinear", 3: "trilinear"}[dimensions]
    return Compose(
        [
            RandGaussianNoise(prob=0.1, std=0.1),
            RandGaussianSmooth(sigma_voxels, sigma_voxels, sigma_voxels, prob=0.1),
            RandScaleIntensity(factors, prob=0.15),
            RandScaleIntensityFixedMean(prob=0.15, factors=factors, preserve_range=True),
            RandSimulateLowResolution(prob=0.125, zoom_range=(0.5, 1.0), upsample_mode=linear),
            RandAdjustContrast(prob=0.1, gamma=gamma, invert_image=True, retain_stats=True),
            RandAdjustContrast(prob=0.3, gamma=gamma, retain_stats=True),
        ]
    )
