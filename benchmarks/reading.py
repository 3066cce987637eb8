"""Reading a gzipped NIfTI scan and writing its label map, beside nibabel, which checks less."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from benchmarks.rows import Row, area, at_most
from benchmarks.timing import interleaved, timed_row
from unet_factory.volume import read_header, read_volume, write_labelmap

_SHAPE, _SPACING_MM = (256, 216, 12), (1.5, 1.5, 8.0)  # a short-axis scan of the heart


@area("reading", "Reading a scan and writing its label map")
def reading() -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scan, labels = _scan(folder / "scan.nii.gz"), _labels()
        ours, theirs = folder / "ours.nii.gz", folder / "theirs.nii.gz"
        megabytes = scan.stat().st_size / 1e6
        samples = interleaved(
            {
                "header": lambda: read_header(scan),
                "nibabel's header": lambda: nib.Nifti1Image.from_filename(scan).header,
                "volume": lambda: read_volume(scan),
                "nibabel's volume": lambda: nib.Nifti1Image.from_filename(scan).get_fdata(dtype=np.float32),
                "label map": lambda: write_labelmap(ours, labels, scan),
                "nibabel's label map": lambda: nib.save(
                    nib.Nifti1Image(labels, nib.Nifti1Image.from_filename(scan).affine), theirs
                ),
            },
            rounds=15,
        )
    bounds = (("header", 3, 6, "16.7 ms"), ("volume", 11, 2.2, "23 ms"), ("label map", 7, 3, "25 ms"))
    for part, bound, ratio, before in bounds:
        name = f"{part}, {megabytes:.2f} MB"
        yield timed_row(name, samples, part, aim=at_most(bound), before=before, cpu=True)
        yield timed_row(f"{name}, beside nibabel", samples, part, f"nibabel's {part}", aim=at_most(ratio), cpu=True)


def _scan(path: Path) -> Path:
    """A bright ball and a smooth background in noise of a few grey levels, as scanners store it: int16."""
    distance = _distance()
    voxels = 400 * (distance < 0.5) + 100 * distance + np.random.default_rng(0).normal(0, 4, _SHAPE)
    affine = np.diag([*_SPACING_MM, 1.0])
    nib.save(nib.Nifti1Image(voxels.astype(np.int16), affine), path)
    return path


def _labels() -> NDArray[np.uint8]:
    distance = _distance()
    return ((distance < 0.3).astype(np.uint8) + (distance < 0.5)).astype(np.uint8)


def _distance() -> NDArray[np.float64]:
    """From the centre, in half extents."""
    axes = np.meshgrid(*(np.linspace(-1, 1, extent) for extent in _SHAPE), indexing="ij")
    return np.sqrt(sum(axis**2 for axis in axes))
