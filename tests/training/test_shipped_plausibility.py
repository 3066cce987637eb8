"""The shipped models flag scans of another organ, and none of their own kind."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.fixtures.project import DICOM_SERIES, PROJECT
from unet_factory.domain.plausibility import Finding, field_of_view_findings, volume_findings
from unet_factory.domain.spacing import SpacingMm
from unet_factory.model.checkpoint import Checkpoint, load_checkpoint
from unet_factory.model.preprocessing import resample
from unet_factory.platform.manifest_file import read_manifest
from unet_factory.volume import Volume, read_header, read_volume, volumes_ml
from unet_factory.volume.dicom import pack_series
from unet_factory_training.config import read_config
from unet_factory_training.datasets import find_subjects, read_scan
from unet_factory_training.evaluation import Simulated, segment_simulated

EXAMPLES = sorted((PROJECT / "examples" / "hippocampus" / "images").glob("*.nii.gz"))

needs_data = pytest.mark.skipif(
    "UNET_FACTORY_DATA" not in os.environ, reason="needs UNET_FACTORY_DATA, the folder of data sets"
)


@pytest.fixture(scope="module")
def hippocampus() -> Checkpoint:
    return load_checkpoint(model("hippocampus-mr"))


def model(name: str) -> Path:
    return PROJECT / "models" / f"{name}.safetensors"


def data(*parts: str) -> Iterator[Path]:
    return Path(os.environ["UNET_FACTORY_DATA"]).glob("/".join(parts))


def judged(checkpoint: Checkpoint, volume: Volume, spacing_mm: SpacingMm | None = None) -> Sequence[Finding]:
    """As a worker finds of a scan, acquired at its own spacing or coarser."""
    manifest, native_mm = checkpoint.manifest, volume.spacing_ras_mm
    spacing_mm = spacing_mm or native_mm
    image = resample(torch.from_numpy(volume.data), native_mm, spacing_mm)
    labels = segment_simulated(checkpoint.hypernetwork, manifest, Simulated(image, image, spacing_mm))
    found_ml = volumes_ml(labels.numpy(), spacing_mm, manifest.labels)
    extents = field_of_view_findings(manifest.seen, image.shape, spacing_mm)
    return (*extents, *volume_findings(manifest.seen, found_ml))


@pytest.mark.parametrize("spacing_mm", [None, (1.0, 1.0, 3.0), (2.0, 2.0, 2.0)])
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_the_examples_are_plausible(hippocampus: Checkpoint, path: Path, spacing_mm: SpacingMm | None) -> None:
    assert judged(hippocampus, read_volume(path), spacing_mm) == ()


def test_a_dicom_crop_of_another_scanner_is_plausible(hippocampus: Checkpoint, tmp_path: Path) -> None:
    pack_series(sorted(DICOM_SERIES.glob("*.dcm")), tmp_path / "scan.zip")
    assert judged(hippocampus, read_volume(tmp_path / "scan.zip")) == ()


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_a_scan_of_the_right_size_without_anatomy_has_implausible_volumes(hippocampus: Checkpoint, path: Path) -> None:
    example = read_volume(path)
    ramp = np.indices(example.data.shape, dtype=np.float32)[1]
    found = judged(hippocampus, Volume(ramp, example.spacing_ras_mm, example.header))
    assert {finding.what for finding in found} == {"volume_ml"}


@needs_data
@pytest.mark.slow
def test_no_test_scan_of_its_own_is_flagged(hippocampus: Checkpoint) -> None:
    subjects = find_subjects(read_config(PROJECT / "configs" / "hippocampus-mr.yaml").dataset, "test")
    assert len(subjects) == 30
    flagged = {subject.name: judged(hippocampus, read_volume(subject.image)) for subject in subjects}
    assert {name: list(map(str, found)) for name, found in flagged.items() if found} == {}


@needs_data
@pytest.mark.parametrize("name", ["hippocampus-mr", "heart-mr", "lumbar-mr"])
def test_what_experts_drew_in_unseen_patients_is_plausible(name: str) -> None:
    config, seen = read_config(PROJECT / "configs" / f"{name}.yaml"), read_manifest(model(name)).seen
    for subject in find_subjects(config.dataset, "test"):
        scan = read_scan(subject, config.dataset)
        found_ml = volumes_ml(scan.labels.numpy(), scan.spacing_ras_mm, config.labels)
        assert field_of_view_findings(seen, scan.image.shape, scan.spacing_ras_mm) == (), subject.name
        assert volume_findings(seen, found_ml) == (), subject.name


@needs_data
def test_whole_heads_and_spines_are_flagged_by_their_headers() -> None:
    """On every axis, so nobody has to wait for their volumes."""
    seen = read_manifest(model("hippocampus-mr")).seen
    scans = [*data("brats2021", "*", "*_t1ce.nii.gz"), *data("spine_vb3", "images", "*.nii.gz")]
    assert len(scans) > 20
    for path in scans:
        header = read_header(path)
        assert len(field_of_view_findings(seen, header.shape_ras, header.spacing_ras_mm)) == 3, path


@needs_data
def test_a_whole_head_has_implausible_volumes_too(hippocampus: Checkpoint) -> None:
    """At the coarsest spacing, where it takes seconds."""
    path = next(data("brats2021", "*", "*_t1ce.nii.gz"))
    found = judged(hippocampus, read_volume(path), (3.5, 3.5, 3.5))
    assert {finding.label for finding in found} >= {"anterior hippocampus", "posterior hippocampus"}
