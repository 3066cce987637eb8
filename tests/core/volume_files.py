"""Volume files for the tests, written by nibabel and SimpleITK or byte by byte, and never by the code under test."""

import gzip
import itertools
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray

SPACING_RAS_MM = (0.75, 1.5, 3.25)  # exact in float32
ORIENTATIONS = [
    (axes, flips) for axes in itertools.permutations(range(3)) for flips in itertools.product((1, -1), repeat=3)
]
SUFFIXES = (".nii", ".nii.gz", ".mha", ".nrrd")
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
# where the fields of a little-endian NIfTI-1 header lie, and their struct formats
NIFTI_FIELDS = {
    "dim": (40, "<8h"),
    "datatype": (70, "<h"),
    "pixdim": (76, "<8f"),
    "vox_offset": (108, "<f"),
    "scl": (112, "<2f"),
    "xyzt_units": (123, "<b"),
    "codes": (252, "<2h"),
    "quatern": (256, "<3f"),
    "srow": (280, "<12f"),
    "magic": (344, "<4s"),
}


def phantom(shape: tuple[int, int, int] = (5, 6, 7), dtype: str = "int16") -> NDArray[Any]:
    """(r, a, s): no two voxels alike, so that a flip or a swap cannot hide."""
    return np.random.default_rng(0).permutation(np.prod(shape)).reshape(shape).astype(dtype)


def affine_ras(rotation_deg: float = 0, about: tuple[float, float, float] = (1, 2, 3)) -> NDArray[np.float64]:
    """Voxel (r, a, s) to RAS mm: ``SPACING_RAS_MM`` turned about an axis (Rodrigues), with an offset."""
    x, y, z = np.array(about) / np.linalg.norm(about)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.deg2rad(rotation_deg)
    rotation = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    affine = np.eye(4)
    affine[:3, :3] = rotation * SPACING_RAS_MM
    affine[:3, 3] = (-12.5, 7.25, 100)
    return affine


def reoriented(
    data: NDArray[Any], affine: NDArray[np.float64], axes: tuple[int, ...], flips: tuple[int, ...]
) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """The same scan stored along other axes: stored axis n is axis ``axes[n]`` of ``data``, backwards where flipped."""
    stored = data.transpose(axes)[tuple(slice(None, None, flip) for flip in flips)]
    to_original = np.zeros((4, 4))
    to_original[3, 3] = 1
    for axis, (original, flip) in enumerate(zip(axes, flips, strict=True)):
        to_original[original, axis] = flip
        to_original[original, 3] = data.shape[original] - 1 if flip < 0 else 0
    return stored, affine @ to_original


def write_volume(path: Path, data: NDArray[Any], affine: NDArray[np.float64]) -> Path:
    """By nibabel or SimpleITK, as the suffix says; ``data`` (i, j, k), ``affine`` to RAS mm."""
    if ".nii" in path.suffixes:
        nib.save(nib.Nifti1Image(data, affine, dtype=data.dtype), path)
        return path
    affine_lps = LPS @ affine
    spacing = np.linalg.norm(affine_lps[:3, :3], axis=0)
    image = sitk.GetImageFromArray(np.ascontiguousarray(data.transpose(2, 1, 0)))
    image.SetSpacing(spacing.tolist())
    image.SetDirection((affine_lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(affine_lps[:3, 3].tolist())
    sitk.WriteImage(image, str(path), useCompression=True)
    return path


def load_nifti(path: Path) -> Any:
    """The image, as nibabel reads it."""
    return nib.load(path)


def load_itk(path: Path) -> Any:
    """The image, as SimpleITK reads it."""
    return sitk.ReadImage(str(path))


def itk_voxels(image: Any) -> NDArray[Any]:
    """(i, j, k)"""
    array: NDArray[Any] = sitk.GetArrayFromImage(image)
    return array.transpose(2, 1, 0)


def itk_in_lps(image: Any) -> Any:
    return sitk.DICOMOrient(image, "LPS")


def itk_orientation(image: Any) -> str:
    letters: str = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(image.GetDirection())
    return letters


def write_nifti(path: Path, data: NDArray[Any] | None = None, **fields: Any) -> Path:
    """A NIfTI-1 file with header fields overwritten in the bytes, so that no library can tidy them up."""
    data = phantom() if data is None else data
    nib.save(nib.Nifti1Image(data, affine_ras(), dtype=data.dtype), path.with_suffix(".plain.nii"))
    content = bytearray(path.with_suffix(".plain.nii").read_bytes())
    path.with_suffix(".plain.nii").unlink()
    for name, values in fields.items():
        at, layout = NIFTI_FIELDS[name]
        struct.pack_into(layout, content, at, *(values if isinstance(values, tuple) else (values,)))
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def write_mha(path: Path, payload: bytes | None = None, **fields: str | None) -> Path:
    """An MHA file of the phantom, int16, 1 x 2 x 3 mm; a field that is None is left out."""
    lines = {
        "ObjectType": "Image",
        "NDims": "3",
        "CompressedData": "False",
        "TransformMatrix": "1 0 0 0 1 0 0 0 1",
        "Offset": "0 0 0",
        "ElementSpacing": "1 2 3",
        "DimSize": "5 6 7",
        "ElementType": "MET_SHORT",
        **fields,
    }
    lines["ElementDataFile"] = fields.get("ElementDataFile", "LOCAL")
    text = "".join(f"{key} = {value}\n" for key, value in lines.items() if value is not None)
    path.write_bytes(text.encode() + (phantom().tobytes(order="F") if payload is None else payload))
    return path


def write_nrrd(path: Path, payload: bytes | None = None, **fields: str | None) -> Path:
    """An NRRD file of the phantom, int16, 1 x 2 x 3 mm; ``space_origin`` names the field "space origin"."""
    lines = {
        "type": "short",
        "dimension": "3",
        "space": "left-posterior-superior",
        "sizes": "5 6 7",
        "space directions": "(1,0,0) (0,2,0) (0,0,3)",
        "kinds": "domain domain domain",
        "endian": "little",
        "encoding": "raw",
        **{key.replace("_", " "): value for key, value in fields.items()},
    }
    text = "NRRD0004\n" + "".join(f"{key}: {value}\n" for key, value in lines.items() if value is not None) + "\n"
    path.write_bytes(text.encode() + (phantom().tobytes(order="F") if payload is None else payload))
    return path


WRITERS: dict[str, Callable[..., Path]] = {"nii": write_nifti, "mha": write_mha, "nrrd": write_nrrd}
