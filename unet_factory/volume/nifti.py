"""NIfTI-1 and NIfTI-2 single files, plain or gzipped: nibabel reads the header, but repairs nothing unasked."""

import logging
import struct
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from unet_factory.domain.errors import GeometryInvalid, NotAVolume
from unet_factory.volume.geometry import check_affine
from unet_factory.volume.header import Payload, StoredGrid, StoredVolume, Triple, payload_bytes, spatial_shape
from unet_factory.volume.payload import GZIP_MAGIC, first_bytes

MAX_EXTENSION_BYTES = 64 * 2**20  # header extensions before the voxels; they are skipped, unread
_HEADER_BYTES: dict[int, type[nib.Nifti1Header]] = {348: nib.Nifti1Header, 540: nib.Nifti2Header}
QUATERNION_EXCESS = 1e-5  # of b*b + c*c + d*d above 1, taken for rounding: a half turn, as nifti1_io reads it
_MM_PER_UNIT = {1: 1000.0, 2: 1.0, 3: 0.001}  # metre, mm, micron; unknown codes count as mm
_GRID_FIELDS = (
    *("dim", "pixdim", "xyzt_units", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"),
)
_QUATERNION = ("quatern_b", "quatern_c", "quatern_d")
_NO_ORIENTATION = (  # nibabel's reading; ITK and FSL take the first axis for the other direction
    "the header has no valid qform or sform code: the axes are taken to point left, anterior and superior",
)
_LABEL_INTENT = 1002
_NO_EXTENSIONS = b"\0" * 4
_silent = logging.Logger("nibabel repairs", level=logging.CRITICAL + 1)


def read_nifti(path: Path) -> StoredVolume:
    """The header's statements. The affine is the one that nibabel takes (sform, else qform, else pixdim), in mm;
    where the sform is all zeros it is the qform, as in ITK.

    Raises:
        NotAVolume: a header that cannot be, or voxels that are not one integer or real number each.
        GeometryInvalid: not one 3D volume, a qform that is not a rotation, or an sform of zeros without a qform.
    """
    deflated_from = _deflated_from(path)
    header = _read_header(path, deflated_from)
    offset = _voxel_offset(header)
    repaired = _repaired(header)
    mm_per_unit = _MM_PER_UNIT.get(int(header["xyzt_units"]) & 7, 1.0)
    shape, dtype = _shape(header), _dtype(header)
    slope, inter = _scaling(header)
    source, notes = _affine_source(repaired)
    return StoredVolume(
        format="nifti",
        shape=shape,
        dtype=dtype,
        affine=_affine(repaired, source, mm_per_unit),
        affine_source=source,
        declared_spacing_mm=_pixdim(header, mm_per_unit),
        spacing_source="pixdim",
        payload=Payload(offset, payload_bytes(shape, dtype), deflated_from),
        slope=slope,
        inter=inter,
        notes=notes,
    )


def nifti_labelmap(source: Path, stored: StoredGrid, labels: NDArray[np.uint8]) -> tuple[bytes, bytes]:
    """Header and voxels of a label map: on a NIfTI source's grid bit by bit, else on the nearest that float32 can say.

    Only geometry is taken over: descriptions and extensions may name a patient.
    """
    if stored.format == "nifti":
        header = _copied_grid(_read_header(source, _deflated_from(source)))
    else:
        header = _new_grid(stored)
    header.set_data_dtype(np.uint8)
    header["vox_offset"] = header.single_vox_offset
    header["scl_slope"], header["scl_inter"] = 1, 0
    header["cal_max"] = labels.max()
    header["intent_code"] = _LABEL_INTENT
    header["descrip"] = b"unet_factory label map"
    return header.binaryblock + _NO_EXTENSIONS, labels.tobytes(order="F")


def _read_header(path: Path, deflated_from: int | None) -> nib.Nifti1Header:
    """The header as stored. nibabel's own loading would replace a zero or negative pixdim without a word."""
    block = first_bytes(path, max(_HEADER_BYTES), deflated_from=deflated_from)
    for byte_order in "<>":
        (header_bytes,) = struct.unpack_from(f"{byte_order}i", block)
        if header_bytes in _HEADER_BYTES and len(block) >= header_bytes:
            return _HEADER_BYTES[header_bytes](block[:header_bytes], endianness=byte_order, check=False)
    raise NotAVolume(f"truncated: the file ends after {len(block)} bytes, within the NIfTI header")


def _deflated_from(path: Path) -> int | None:
    return 0 if first_bytes(path, 2) == GZIP_MAGIC else None


def _shape(header: nib.Nifti1Header) -> tuple[int, int, int]:
    dims = [int(length) for length in header["dim"]]
    if not 1 <= dims[0] <= 7:
        raise NotAVolume(f"the header's number of dimensions, dim[0], is {dims[0]}; it must be 1 to 7")
    return spatial_shape(dims[1 : dims[0] + 1])


def _dtype(header: nib.Nifti1Header) -> np.dtype[np.generic]:
    code = int(header["datatype"])
    try:
        dtype: np.dtype[np.generic] = np.dtype(header.get_data_dtype())
    except (KeyError, HeaderDataError):
        raise NotAVolume(f"the header's datatype code {code} is unknown") from None
    if dtype.kind not in "iuf" or not 1 <= dtype.itemsize <= 8:
        name = nib.nifti1.data_type_codes.label[code]
        raise NotAVolume(f"the voxels are of type {name} (code {code}); one integer or real number each is needed")
    return dtype


def _scaling(header: nib.Nifti1Header) -> tuple[float, float]:
    try:
        slope, inter = header.get_slope_inter()
    except HeaderDataError:
        raise NotAVolume(
            f"scl_slope {float(header['scl_slope']):g} with scl_inter {float(header['scl_inter']):g} is "
            "not a valid scaling"
        ) from None
    return (1.0, 0.0) if slope is None else (slope, inter)


def _voxel_offset(header: nib.Nifti1Header) -> int:
    offset = float(header["vox_offset"])
    lowest, highest = header.single_vox_offset, header.single_vox_offset + MAX_EXTENSION_BYTES
    if not lowest <= offset <= highest or offset != int(offset):
        raise NotAVolume(f"vox_offset is {offset:g}; it must be a whole number from {lowest} to {highest}")
    return int(offset)


def _pixdim(header: nib.Nifti1Header, mm_per_unit: float) -> Triple:
    i_mm, j_mm, k_mm = (float(length) * mm_per_unit for length in header["pixdim"][1:4])
    return (i_mm, j_mm, k_mm)


def _repaired(header: nib.Nifti1Header) -> nib.Nifti1Header:
    """As ``nib.load`` would repair it. A bad pixdim becomes 1 or positive here; it is judged by what was stored."""
    repaired: nib.Nifti1Header = header.copy()
    repaired["pixdim"][1:4] = np.where(np.isfinite(header["pixdim"][1:4]), header["pixdim"][1:4], 1)
    repaired.check_fix(logger=_silent, error_level=logging.CRITICAL + 1)
    quaternion = np.array([float(header[field]) for field in _QUATERNION])
    if 1 < quaternion @ quaternion <= 1 + QUATERNION_EXCESS:
        for field, part in zip(_QUATERNION, quaternion / np.linalg.norm(quaternion), strict=True):
            repaired[field] = part
    return repaired


def _affine_source(repaired: nib.Nifti1Header) -> tuple[str, tuple[str, ...]]:
    """Which of the header's statements places the voxels, and what to tell of it."""
    sform_code, qform_code = int(repaired["sform_code"]), int(repaired["qform_code"])
    if sform_code > 0 and repaired.get_sform()[:3, :3].any():
        return "sform", ()
    if sform_code > 0 and qform_code <= 0:
        raise GeometryInvalid(
            f"the sform is all zeros, although its code is {sform_code}, and there is no qform (code {qform_code}); "
            "write a valid sform or qform"
        )
    if sform_code > 0:
        return "qform", (f"the sform is all zeros, although its code is {sform_code}; the qform is used instead",)
    return ("qform", ()) if qform_code > 0 else ("pixdim", _NO_ORIENTATION)


def _affine(repaired: nib.Nifti1Header, source: str, mm_per_unit: float) -> NDArray[np.float64]:
    """Equal to ``nib.load(path).affine`` where the file is in mm and its sform not all zeros."""
    try:
        affine = np.array(repaired.get_qform() if source == "qform" else repaired.get_best_affine(), np.float64)
    except ValueError:
        b_c_d = ", ".join(f"{float(repaired[field]):g}" for field in _QUATERNION)
        raise GeometryInvalid(
            f"the qform's quaternion ({b_c_d}) is not a rotation: its length is above 1, by more than rounding"
        ) from None
    affine[:3] *= mm_per_unit
    return affine


def _copied_grid(source: nib.Nifti1Header) -> nib.Nifti1Header:
    header = type(source)(endianness="<")
    for field in _GRID_FIELDS:
        header[field] = source[field]
    return header


def _new_grid(stored: StoredGrid) -> nib.Nifti1Header:
    header = nib.Nifti1Header(endianness="<")
    header.set_data_shape(stored.shape)
    header.set_xyzt_units("mm")
    with np.errstate(over="ignore"):
        header.set_qform(stored.affine, code="scanner")
        header.set_sform(stored.affine, code="scanner")
    check_affine(header.get_sform())  # an origin beyond float32 has become infinite
    return header
