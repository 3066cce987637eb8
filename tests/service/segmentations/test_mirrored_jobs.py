"""``mirroring=true`` through HTTP, for a model that was trained on scans mirrored along R."""

import json
from pathlib import Path

import httpx
import nibabel
import numpy as np

from unet_factory.domain.jobs import JobState
from unet_factory.domain.segmentation_parameters import SegmentationParameters
from unet_factory.model.segment_image import segment
from unet_factory_client import FactoryClient

MIRRORING = SegmentationParameters(mirroring=True)


def scan_file(folder: Path, name: str, voxels: np.ndarray) -> Path:
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), folder / name)
    return folder / name


def test_a_mirrored_scan_gets_the_mirrored_label_map_and_the_job_says_so(
    http: httpx.Client, worker: None, tiny_models: Path, tmp_path: Path
) -> None:
    """Even extents, so that padding is the same at both ends; the same without a service."""
    voxels = np.random.default_rng(0).normal(size=(24, 20, 16)).astype(np.float32)
    scans = [scan_file(tmp_path, "scan.nii", voxels), scan_file(tmp_path, "mirrored.nii", voxels[::-1].copy())]
    found = {}
    with FactoryClient(str(http.base_url)) as client:
        assert client.models()[0].mirrored_axes == ("R",)
        for name, parameters in {"plain": SegmentationParameters(), "mirroring": MIRRORING}.items():
            for scan in scans:
                output = tmp_path / f"{name}-{scan.stem}.nii.gz"
                job = client.segment(scan, output, parameters)
                assert job.state is JobState.SUCCEEDED
                assert job.mirrored_axes == (("R",) if parameters.mirroring else ())
                found[name, scan.stem] = np.asarray(nibabel.Nifti1Image.from_filename(output).dataobj)
    np.testing.assert_array_equal(found["mirroring", "mirrored"][::-1], found["mirroring", "scan"])
    assert (found["plain", "mirrored"][::-1] != found["plain", "scan"]).any()
    alone = segment(scans[0], tiny_models / "tiny.safetensors", parameters=MIRRORING, device="cpu", precision="float32")
    np.testing.assert_array_equal(np.asarray(alone.dataobj), found["mirroring", "scan"])


def test_a_quote_counts_the_mirror_images(http: httpx.Client) -> None:
    asked = {"shape": [70, 40, 30], "spacing": [1.0, 1.0, 1.0]}
    plain, dear = (
        json.loads(http.post("/quote", json={**asked, "mirroring": mirroring}).content)["options"][0]["tiles"]
        for mirroring in (False, True)
    )
    assert dear == 2 * plain
