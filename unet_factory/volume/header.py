"""What is known of a volume once its file has been checked."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unet_factory.domain.spacing import SpacingMm
from unet_factory.volume.geometry import Grid
from unet_factory.volume.stored import StoredVolume


@dataclass(frozen=True, eq=False)
class VolumeHeader:
    """A volume's geometry, without its voxels.

    ``format`` is nifti, mha, nrrd or dicom; ``shape`` and ``dtype`` are the file's own; ``affine`` (4, 4) maps the
    file's voxel indices to RAS mm; ``orientation`` names the directions of the file's axes, such as LPS. The axes of a
    DICOM series are (column, row, slice). ``notes`` say what was chosen or tolerated while reading, in words for the
    sender and without a word of the patient's.
    """

    format: str
    shape: tuple[int, int, int]
    spacing_ras_mm: SpacingMm
    affine: NDArray[np.float64]
    orientation: str
    shape_ras: tuple[int, int, int]
    dtype: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Volume:
    """A scan in RAS+: ``data`` (r, a, s), float32 and C-contiguous, intensities as scaled by the file's header."""

    data: NDArray[np.float32]
    spacing_ras_mm: SpacingMm
    header: VolumeHeader


def header_of(stored: StoredVolume, grid: Grid, notes: tuple[str, ...] = ()) -> VolumeHeader:
    """The statements of the file and the geometry that they were found to mean."""
    return VolumeHeader(
        format=stored.format,
        shape=stored.shape,
        spacing_ras_mm=grid.spacing_ras_mm,
        affine=grid.affine,
        orientation=grid.orientation,
        shape_ras=grid.shape_ras,
        dtype=stored.dtype.name,
        notes=notes,
    )
