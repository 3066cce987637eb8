"""The demo's scans: as acquired, simulated at other spacings, and as segmented."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import nibabel
import numpy as np
import torch
from numpy.typing import NDArray

from unet_factory.domain.jobs import Job
from unet_factory.domain.spacing import SpacingMm, SpacingPlan
from unet_factory.model.checkpoint import load_unet
from unet_factory.model.inference import Execution, segment_scan
from unet_factory.model.preprocessing import resample, resample_labels
from unet_factory.volume import read_header, read_volume
from unet_factory_cli.demo_service import threads
from unet_factory_cli.failures import CommandFailed
from unet_factory_training.evaluation import dice

CLASSES = 3


@dataclass(frozen=True, eq=False)
class DemoScan:
    """A scan's file, and its voxels (r, a, s) with the expert's labels on the same grid."""

    name: str
    path: Path
    image: NDArray[np.float32]
    expert: NDArray[np.uint8]
    spacing_mm: SpacingMm
    affine: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Segmented:
    """What the service made of a scan: labels (r, a, s), Dice per foreground label, seconds from upload to download."""

    scan: DemoScan
    labels: NDArray[np.uint8]
    dice: tuple[float, ...]
    seconds: float
    job: Job

    @classmethod
    def of(cls, scan: DemoScan, labelmap: Path, job: Job, seconds: float) -> Self:
        """
        Raises:
            CommandFailed: the label map is not on the scan's own grid.
        """
        given, answered = read_header(scan.path), read_header(labelmap)
        if given.shape != answered.shape or not np.array_equal(given.affine, answered.affine):
            raise CommandFailed(f"the label map of {scan.name} is not on the scan's grid")
        labels = read_volume(labelmap).data.astype(np.uint8)
        scores = dice(torch.from_numpy(labels), torch.from_numpy(scan.expert), CLASSES)
        return cls(scan, labels, scores, seconds, job)


def read_scans(folder: Path) -> list[DemoScan]:
    """Every case of a folder with ``images`` and ``labels``.

    Raises:
        CommandFailed: there are none.
    """
    scans = [_read_scan(path, folder / "labels" / path.name) for path in sorted((folder / "images").glob("*.nii.gz"))]
    if not scans:
        raise CommandFailed(f"there are no scans in {folder}")
    return scans


def simulate(scan: DemoScan, spacing_mm: SpacingMm, folder: Path) -> DemoScan:
    """The scan as if acquired at ``spacing_mm``, as a file in ``folder``; the scan itself where that is its spacing."""
    if spacing_mm == scan.spacing_mm:
        return scan
    image = resample(torch.from_numpy(scan.image), scan.spacing_mm, spacing_mm).numpy()
    expert = resample_labels(torch.from_numpy(scan.expert), CLASSES, scan.spacing_mm, spacing_mm).numpy()
    affine = _affine_around_same_centre(scan, spacing_mm, image.shape)
    name = f"{scan.name}-{'x'.join(f'{mm:g}' for mm in spacing_mm)}"
    path = folder / f"{name}.nii.gz"
    nibabel.save(nibabel.Nifti1Image(image, affine), path)
    return DemoScan(name, path, image, expert, spacing_mm, affine)


def labels_in_process(network: Path, result: Segmented) -> NDArray[np.uint8]:
    """The label map (r, a, s) of the scan by a standalone network in plain PyTorch, as and where the job did it."""
    torch.set_num_threads(threads())
    device = torch.device((result.job.device or "cpu").split()[0])
    unet, volume = load_unet(network, device), read_volume(result.scan.path)
    assert unet.manifest is not None
    plan = SpacingPlan(volume.spacing_ras_mm, volume.spacing_ras_mm, unet.manifest.spacing, unet.manifest.out_of_range)
    precision, overlap = result.job.precision or "float32", unet.manifest.window_overlap
    execution = Execution(device, unet.manifest.window, unet.divisors, precision, overlap=overlap)
    labels = segment_scan(
        unet, torch.from_numpy(volume.data), plan, execution, postprocessing=unet.manifest.postprocessing
    )
    found: NDArray[np.uint8] = labels.numpy()
    return found


def _read_scan(image_path: Path, labels_path: Path) -> DemoScan:
    image, expert = read_volume(image_path), read_volume(labels_path)
    if image.header.orientation != "RAS" or not np.array_equal(image.header.affine, expert.header.affine):
        raise CommandFailed(
            f"{image_path.name}: the demo needs scans stored in RAS order, with labels on the same grid"
        )
    name = image_path.name.removesuffix(".nii.gz")
    labels = expert.data.astype(np.uint8)
    return DemoScan(name, image_path, image.data, labels, image.spacing_ras_mm, image.header.affine)


def _affine_around_same_centre(scan: DemoScan, spacing_mm: SpacingMm, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """The affine of a grid of ``shape`` at ``spacing_mm`` whose centre lies where the scan's does."""
    affine = scan.affine.copy()
    affine[:3, :3] *= [target / native for target, native in zip(spacing_mm, scan.spacing_mm, strict=True)]
    centre = scan.affine @ [*((extent - 1) / 2 for extent in scan.image.shape), 1]
    moved = affine[:3, :3] @ [(extent - 1) / 2 for extent in shape]
    affine[:3, 3] = centre[:3] - moved
    assert math.isclose(np.linalg.norm(affine[:3, 0]), spacing_mm[0], rel_tol=1e-6)
    return affine
