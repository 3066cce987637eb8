"""What is evaluated is what is served: a worker's label map is the evaluation's, voxel for voxel."""

import time
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from tests.fixtures.project import PROJECT
from tests.fixtures.settings import FactorySettings
from unet_factory.domain.jobs import Job, JobState, PolicyReport, SegmentationRequest, new_job_id
from unet_factory.domain.manifest import Architecture, HypernetworkShape, Label, Manifest, Preprocessing
from unet_factory.domain.precision import Precision
from unet_factory.domain.spacing import OutsidePolicy, SpacingGrid, SpacingMm
from unet_factory.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from unet_factory.model.hypernetwork import Hypernetwork
from unet_factory.volume import read_volume
from unet_factory_training.evaluation import Simulated, segment_simulated
from unet_factory_worker.child import open_context
from unet_factory_worker.segmentation_task import run_job

SCAN = PROJECT / "examples" / "hippocampus" / "images" / "hippocampus_004.nii.gz"
NAME = "hippocampus-mr"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the shipped hippocampus model alone."""
    folder = tmp_path_factory.mktemp("shipped")
    (folder / f"{NAME}.safetensors").symlink_to(PROJECT / "models" / f"{NAME}.safetensors")
    return folder


@pytest.fixture(scope="module")
def shipped(models: Path) -> Checkpoint:
    return load_checkpoint(models / f"{NAME}.safetensors")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("spacing_mm", "resampled"),
    [
        pytest.param((1.0, 1.0, 1.0), False, id="native"),
        pytest.param((0.3, 1.0, 4.5), True, id="resampled"),
    ],
)
def test_a_workers_label_map_is_the_evaluations(
    settings: FactorySettings,
    models: Path,
    shipped: Checkpoint,
    tmp_path: Path,
    spacing_mm: SpacingMm,
    resampled: bool,
    precision: Precision,
) -> None:
    settings = settings.model_copy(update={"models_dir": models, "precision": precision})
    served = served_labels(settings, shipped, SCAN, tmp_path, spacing_mm)
    image = torch.from_numpy(read_volume(SCAN).data)
    simulated = Simulated(image, torch.zeros(image.shape, dtype=torch.uint8), spacing_mm)
    evaluated = segment_simulated(shipped.hypernetwork, shipped.manifest, simulated, precision=precision)
    assert shipped.manifest.grid.contains(shipped.manifest.grid.snap(spacing_mm)) is not resampled
    assert len(np.unique(served)) == shipped.manifest.architecture.classes
    np.testing.assert_array_equal(served, evaluated.numpy())


def test_a_slice_is_served_as_it_is_evaluated(settings: FactorySettings, tmp_path: Path) -> None:
    """A file of one voxel along S, by a network of two dimensions; its thickness does not matter."""
    architecture = Architecture(dimensions=2, classes=3, channels=(4, 8), blocks=1)
    grid = SpacingGrid.from_mm(0.05, [(0.5, 2), (0.5, 2), (1, 10)])
    hypernetwork = Hypernetwork(architecture, HypernetworkShape(hidden=(8, 4)), grid)
    with torch.no_grad():
        hypernetwork.heads.normal_(std=0.3)
    labels = tuple(Label(value=value, name=f"label {value}") for value in range(3))
    manifest = Manifest(
        name="slices",
        architecture=architecture,
        hypernetwork=hypernetwork.shape,
        grid=grid,
        labels=labels,
        preprocessing=Preprocessing(),
        licence="CC0-1.0",
    )
    models, slice_file = tmp_path / "models", tmp_path / "slice.nii.gz"
    models.mkdir()
    save_checkpoint(models / "slices.safetensors", hypernetwork, manifest)
    checkpoint = load_checkpoint(models / "slices.safetensors")
    whole = read_volume(SCAN).data
    one = whole[:, :, whole.shape[2] // 2 :][:, :, :1]
    nibabel.save(nibabel.Nifti1Image(one, np.diag([1.0, 1.0, 5.0, 1.0])), slice_file)
    served = served_labels(settings.model_copy(update={"models_dir": models}), checkpoint, slice_file, tmp_path, None)
    evaluated = [
        segment_simulated(hypernetwork, manifest, Simulated(torch.from_numpy(one), torch.zeros(one.shape), spacing_mm))
        for spacing_mm in ((1.0, 1.0, 5.0), (1.0, 1.0, 2.0))
    ]
    assert served.shape == one.shape
    assert len(np.unique(served)) > 1
    np.testing.assert_array_equal(served, evaluated[0].numpy())
    assert torch.equal(*evaluated)


def served_labels(
    settings: FactorySettings, shipped: Checkpoint, scan: Path, folder: Path, spacing_mm: SpacingMm | None
) -> np.ndarray:
    """The label map of a file, taken to be of ``spacing_mm`` if given, as a job of a worker leaves it in the store."""
    context, model = open_context(settings), shipped.manifest.name
    job_id, now, upload = new_job_id(), time.time(), folder / "input.nii.gz"
    upload.write_bytes(scan.read_bytes())
    context.blobs.put(job_id, upload.name, upload)
    request = SegmentationRequest(
        model=model, checkpoint_digest=shipped.digest, input_name=upload.name, spacing_ras_mm=spacing_mm
    )
    policy = PolicyReport(outside=OutsidePolicy.CLAMP)
    context.jobs.create(Job(id=job_id, model=model, policy=policy, created=now, expires=now + 600), request)
    run_job(job_id, context)
    assert context.jobs.get(job_id).state is JobState.SUCCEEDED
    with context.blobs.local(job_id, "labelmap.nii.gz") as path:
        return np.asarray(nibabel.Nifti1Image.from_filename(path).dataobj)
