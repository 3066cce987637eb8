"""Whether a label map lies on the grid of its image, and how it is brought there."""

import itertools

import nibabel
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import affine_transform

from unet_factory.domain.errors import DatasetInvalid
from unet_factory.volume import VolumeHeader

_TOLERANCE_VOXELS = 0.1  # of the image's shortest edge, at the corners: above the rounding of headers, below any harm


def same_grid(image: VolumeHeader, labels: VolumeHeader) -> bool:
    """Whether both have as many voxels along R, A and S, and all corners in the same places up to a tenth of a voxel.

    How the files store their axes does not matter.
    """
    if image.shape_ras != labels.shape_ras:
        return False
    corners = np.array([(*corner, 1) for corner in itertools.product(*((0, extent - 1) for extent in image.shape_ras))])
    apart_mm = np.linalg.norm(corners @ (affine_ras(image) - affine_ras(labels)).T, axis=1)
    return bool(apart_mm.max() <= _TOLERANCE_VOXELS * min(image.spacing_ras_mm))


def nearest_on_grid(classes: NDArray[np.uint8], labels: VolumeHeader, image: VolumeHeader) -> NDArray[np.uint8]:
    """``classes`` (r, a, s) of a label map on the image's grid: the nearest voxel's, 0 outside the label map.

    Raises:
        DatasetInvalid: the label map has labels, but none of them lies in the image.
    """
    to_labels = np.linalg.inv(affine_ras(labels)) @ affine_ras(image)
    brought: NDArray[np.uint8] = affine_transform(
        classes, to_labels[:3, :3], to_labels[:3, 3], output_shape=image.shape_ras, order=0, mode="constant", cval=0
    )
    if classes.any() and not brought.any():
        raise DatasetInvalid(f"none of its labels lies in the image: {describe(labels)}, the image {describe(image)}")
    return brought


def affine_ras(header: VolumeHeader) -> NDArray[np.float64]:
    """(4, 4): from the indices of the voxels as they are read, (r, a, s), to RAS mm."""
    stored = nibabel.orientations.io_orientation(header.affine)
    affine: NDArray[np.float64] = header.affine @ nibabel.orientations.inv_ornt_aff(stored, header.shape)
    return affine


def describe(header: VolumeHeader) -> str:
    """A grid in words: voxels, spacing, the first voxel's place and the directions of the axes (R, A, S)."""
    affine = affine_ras(header)
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return (
        f"{' x '.join(map(str, header.shape_ras))} voxels of {_numbers(header.spacing_ras_mm)} mm from "
        f"({_numbers(affine[:3, 3])}) mm, axes {' | '.join(_numbers(axis) for axis in directions.T)}"
        f" (stored {header.orientation})"
    )


def _numbers(values: "tuple[float, ...] | NDArray[np.float64]") -> str:
    return ", ".join(f"{value + 0:.4g}" for value in np.round(values, 4))
