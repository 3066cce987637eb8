"""From a file to a checked header and to voxels."""

from pathlib import Path

from unet_factory.domain.image_choice import ANY_IMAGE, ImageChoice
from unet_factory.domain.spacing import SpacingMm
from unet_factory.domain.volume_limits import DEFAULT_LIMITS, VolumeLimits
from unet_factory.volume.formats import read_stored
from unet_factory.volume.geometry import trusted_grid
from unet_factory.volume.header import Volume, VolumeHeader, header_of
from unet_factory.volume.limits import check_claims, check_limit
from unet_factory.volume.payload import check_length, file_bytes
from unet_factory.volume.sniff import sniff_format
from unet_factory.volume.stored import StoredVolume
from unet_factory.volume.voxels import read_voxels_ras


def read_header(
    path: Path,
    *,
    limits: VolumeLimits = DEFAULT_LIMITS,
    spacing_ras_mm: SpacingMm | None = None,
    choice: ImageChoice = ANY_IMAGE,
) -> VolumeHeader:
    """Check the limits, the geometry and the length of the file at ``path`` without loading its voxels.

    A given ``spacing_ras_mm`` overrules the file's own spacing, which may then be missing or wrong; the directions of
    its axes still count, and the columns of ``affine`` get the given lengths. ``choice`` names the images to take
    where a DICOM series has several at each place.

    Raises:
        NotAVolume: not NIfTI, MHA, NRRD or DICOM; truncated or damaged; voxels that are not one real number each.
        VolumeTooLarge: beyond ``limits``.
        GeometryInvalid: not one 3D volume; an affine that is singular, sheared or not finite.
        SpacingInvalid: the file's spacing, or the given one, is missing or not three positive finite numbers.
        SpacingAmbiguous: the file's own statements about the spacing disagree.
    """
    if _is_dicom(path, limits):
        from unet_factory.volume.dicom import read_series

        return read_series(path, limits=limits, spacing_ras_mm=spacing_ras_mm, choice=choice).header
    return _read_checked(path, limits, spacing_ras_mm)[1]


def read_volume(
    path: Path,
    *,
    limits: VolumeLimits = DEFAULT_LIMITS,
    spacing_ras_mm: SpacingMm | None = None,
    choice: ImageChoice = ANY_IMAGE,
) -> Volume:
    """Load the file at ``path`` as float32 in RAS+; of a DICOM file the ``DicomVolume``, which keeps its headers.

    Parameters and errors are those of ``read_header``. A volume with NaN or infinite voxels is refused as well
    (NotAVolume gives their number): only the sender can say what they stand for, and a single one would spoil the
    normalisation of the whole scan.
    """
    if _is_dicom(path, limits):
        from unet_factory.volume.dicom import read_series_volume

        return read_series_volume(path, limits=limits, spacing_ras_mm=spacing_ras_mm, choice=choice)
    stored, header = _read_checked(path, limits, spacing_ras_mm)
    return Volume(read_voxels_ras(path, stored), header.spacing_ras_mm, header)


def _is_dicom(path: Path, limits: VolumeLimits) -> bool:
    """Whether to read the file with pydicom, which is imported only then."""
    check_limit("file size", "bytes", file_bytes(path), limits.compressed_bytes)
    return sniff_format(path, limits) == "dicom"


def _read_checked(path: Path, limits: VolumeLimits, given: SpacingMm | None) -> tuple[StoredVolume, VolumeHeader]:
    stored = read_stored(path)
    check_claims(stored, limits)
    grid = trusted_grid(stored, given)
    check_length(path, stored.payload)
    return stored, header_of(stored, grid)
