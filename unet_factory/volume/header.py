"""What a volume's file says about itself, and what is known of the volume once that has been checked."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from unet_factory.domain.errors import DicomIncomplete, GeometryInvalid
from unet_factory.domain.spacing import SpacingMm
from unet_factory.domain.volume_limits import VolumeLimits, check_limit

FileFormat = Literal["nifti", "mha", "nrrd", "dicom"]
Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Payload:
    """Where the voxels lie: ``n_bytes`` after ``offset``.

    Both count bytes of the file or, where ``deflated_from`` is set, of what the zlib or gzip stream that begins there
    inflates to.
    """

    offset: int
    n_bytes: int
    deflated_from: int | None = None


class StoredGrid(Protocol):
    """What a label map needs to know of its source: axis order (i, j, k), ``affine`` (4, 4) to RAS mm."""

    @property
    def format(self) -> str: ...
    @property
    def shape(self) -> tuple[int, int, int]: ...
    @property
    def affine(self) -> NDArray[np.float64]: ...


@dataclass(frozen=True, eq=False)
class StoredVolume:
    """A header's statements in the file's axis order (i, j, k), i fastest in the payload.

    ``affine`` (4, 4) maps voxel indices to RAS mm and comes from ``affine_source``. ``declared_spacing_mm`` is the
    header's separate statement in ``spacing_source``, unrepaired (it may hold 0 or NaN); None where there is none, and
    then the affine's columns are unit vectors. ``notes`` are those of ``VolumeHeader``.
    """

    format: FileFormat
    shape: tuple[int, int, int]
    dtype: np.dtype[np.generic]
    affine: NDArray[np.float64]
    affine_source: str
    declared_spacing_mm: Triple | None
    spacing_source: str
    payload: Payload
    slope: float = 1.0
    inter: float = 0.0
    notes: tuple[str, ...] = ()

    @property
    def is_scaled(self) -> bool:
        return (self.slope, self.inter) != (1.0, 0.0)


def spatial_shape(stored_shape: Sequence[int]) -> tuple[int, int, int]:
    """The three spatial axes of ``stored_shape``: trailing axes of length 1 beyond the third are dropped.

    Raises:
        GeometryInvalid: not three axes, or an axis without voxels.
    """
    shape = list(stored_shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape.pop()
    if len(shape) != 3:
        raise GeometryInvalid(
            f"the volume has {len(shape)} dimensions, shape {tuple(stored_shape)}; one 3D volume is needed"
            + (", so send one of those in the file" if len(shape) > 3 else ""),
            shape=list(stored_shape),
        )
    if min(shape) < 1:
        raise GeometryInvalid(
            f"the shape {tuple(stored_shape)} has an axis without voxels; every axis needs at least one",
            shape=list(stored_shape),
        )
    return (shape[0], shape[1], shape[2])


def payload_bytes(shape: tuple[int, int, int], dtype: np.dtype[np.generic]) -> int:
    return math.prod(shape) * dtype.itemsize


def check_claims(stored: StoredVolume, limits: VolumeLimits) -> None:
    """Raise VolumeTooLarge where the header claims more than is allowed."""
    shape = " x ".join(map(str, stored.shape))
    check_limit(f"longest axis of the shape {shape}", "voxels", max(stored.shape), limits.max_axis)
    check_limit(f"shape {shape}", "voxels", math.prod(stored.shape), limits.voxels)
    check_limit(
        f"shape {shape} of {stored.dtype.name}",
        "bytes decompressed",
        stored.payload.offset + stored.payload.n_bytes,
        limits.decompressed_bytes,
    )


class Grid(NamedTuple):
    """A volume's geometry: ``affine`` (4, 4) file voxel -> RAS mm, its columns as long as ``spacing_ras_mm`` says."""

    affine: NDArray[np.float64]
    spacing_ras_mm: SpacingMm
    orientation: str
    shape_ras: tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class VolumeHeader:
    """A volume's geometry, without its voxels.

    ``format`` is nifti, mha, nrrd or dicom; ``shape`` and ``dtype`` are the file's own; ``affine`` (4, 4) maps the
    file's voxel indices to RAS mm; ``orientation`` names the directions of the file's axes, such as LPS. The axes of a
    DICOM series are (column, row, slice). ``notes`` say what was chosen or tolerated while reading, in words for the
    sender and without a word of the patient's. ``missing_identifiers`` are the attributes without which no DICOM result
    can refer to the series.
    """

    format: FileFormat
    shape: tuple[int, int, int]
    spacing_ras_mm: SpacingMm
    affine: NDArray[np.float64]
    orientation: str
    shape_ras: tuple[int, int, int]
    dtype: str
    notes: tuple[str, ...] = ()
    missing_identifiers: tuple[str, ...] = ()

    def check_referable(self) -> None:
        """
        Raises:
            DicomIncomplete: no DICOM result could refer to the scan, for lack of identifiers.
        """
        if self.missing_identifiers:
            raise DicomIncomplete(
                f"some images have no {', '.join(self.missing_identifiers)}, or several values for it, and the DICOM "
                "results must refer to exactly one; add it, or convert the series to NIfTI for a label map",
                missing=list(self.missing_identifiers),
            )


@dataclass(frozen=True, eq=False)
class Volume:
    """A scan in RAS+: ``data`` (r, a, s), float32 and C-contiguous, intensities as scaled by the file's header."""

    data: NDArray[np.float32]
    spacing_ras_mm: SpacingMm
    header: VolumeHeader


def header_of(stored: StoredVolume, grid: Grid) -> VolumeHeader:
    """The statements of the file and the geometry that they were found to mean."""
    return VolumeHeader(
        format=stored.format,
        shape=stored.shape,
        spacing_ras_mm=grid.spacing_ras_mm,
        affine=grid.affine,
        orientation=grid.orientation,
        shape_ras=grid.shape_ras,
        dtype=stored.dtype.name,
        notes=stored.notes,
    )
