"""Label maps on the grid of the scan that they belong to."""

import gzip
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from unet_factory.domain.errors import GeometryInvalid, MalformedRequest
from unet_factory.domain.manifest import Label
from unet_factory.domain.spacing import SpacingMm
from unet_factory.platform.atomic_files import storage_errors, whole_file
from unet_factory.volume.geometry import as_stored, check_affine, in_ras_order
from unet_factory.volume.header import StoredGrid, VolumeHeader
from unet_factory.volume.metaimage import metaimage_labelmap
from unet_factory.volume.nifti import nifti_labelmap
from unet_factory.volume.nrrd import nrrd_labelmap
from unet_factory.volume.payload import COMPRESSION_LEVEL
from unet_factory.volume.reading import read_header, read_stored, sniff_format

MM3_PER_ML = 1000.0

_Writer = Callable[[Path, StoredGrid, NDArray[np.uint8]], tuple[bytes, bytes]]
_WRITERS: dict[str, _Writer] = {
    ".nii.gz": nifti_labelmap,
    ".nii": nifti_labelmap,
    ".nrrd": nrrd_labelmap,
    ".mha": metaimage_labelmap,
}


def write_labelmap(
    path: Path,
    labels_ras: NDArray[np.uint8],
    source: Path,
    header: VolumeHeader | None = None,
    *,
    durable: bool = True,
) -> None:
    """Write ``labels_ras`` (r, a, s) to ``path`` on the own grid of the volume file ``source``.

    The suffix of ``path`` says the format. In the source's own format the header's geometry is copied as it stands, so
    shape and affine are bit-equal, contradictions of the source included; in another it is the closest that format can
    say. A DICOM series has its grid from ``header``, as it was read (else it is read again, without a given spacing).
    ``path`` appears complete or not at all. ``durable``: and is on the disk then, as :func:`whole_file` explains.

    Raises:
        MalformedRequest: a suffix other than .nii.gz, .nii, .nrrd and .mha.
        GeometryInvalid: ``labels_ras`` is not uint8 of the source's shape in RAS+, or the source has no usable affine.
        NotAVolume: ``source`` cannot be read.
        StorageFull: no space left. Any other trouble with the target folder stays the OSError that it is.
    """
    suffix = next((suffix for suffix in _WRITERS if path.name.endswith(suffix)), None)
    if suffix is None:
        raise MalformedRequest(f"a label map's name must end in one of {', '.join(_WRITERS)}", suffix=path.suffix)
    grid = _grid(source, header)
    check_affine(grid.affine)
    _check_labels(labels_ras, in_ras_order(grid.shape, grid.affine))
    head, voxels = _WRITERS[suffix](source, grid, as_stored(labels_ras, grid.affine))
    with (
        storage_errors("the label map could not be written"),
        whole_file(path, durable=durable) as partial,
        partial.open("xb") as target,
    ):
        _write(target, head, voxels, gzipped=suffix == ".nii.gz")


def volumes_ml(labels_ras: NDArray[np.uint8], spacing_ras_mm: SpacingMm, labels: Sequence[Label]) -> dict[str, float]:
    """Millilitres by label name in a label map (r, a, s) on a grid of ``spacing_ras_mm``, background left out."""
    voxel_ml = float(math.prod(spacing_ras_mm)) / MM3_PER_ML
    found = [label for label in labels if label.value != 0]
    return {label.name: int(np.count_nonzero(labels_ras == label.value)) * voxel_ml for label in found}


def _grid(source: Path, header: VolumeHeader | None) -> StoredGrid:
    if header is not None and header.format == "dicom":
        return header
    kind = sniff_format(source) if header is None else header.format
    return read_header(source) if kind == "dicom" else read_stored(source, kind)


def _check_labels(labels_ras: NDArray[np.uint8], shape_ras: tuple[int, int, int]) -> None:
    if labels_ras.dtype != np.uint8 or labels_ras.shape != shape_ras:
        raise GeometryInvalid(
            f"the labels are {labels_ras.dtype} {labels_ras.shape}, the source needs uint8 {shape_ras} (r, a, s)",
            shape=list(labels_ras.shape),
            shape_ras=list(shape_ras),
        )


def _write(target: BinaryIO, header: bytes, voxels: bytes, *, gzipped: bool) -> None:
    if not gzipped:
        target.writelines((header, voxels))
        return
    with gzip.GzipFile("", "wb", COMPRESSION_LEVEL, target, mtime=0) as stream:
        stream.writelines((header, voxels))
