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
from unet_factory.domain.precision import Precision
from unet_factory.domain.spacing import OutsidePolicy, SpacingMm
from unet_factory.model.checkpoint import Checkpoint, load_checkpoint
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
    served = served_labels(
        settings.model_copy(update={"models_dir": models, "precision": precision}), shipped, tmp_path, spacing_mm
    )
    image = torch.from_numpy(read_volume(SCAN).data)
    simulated = Simulated(image, torch.zeros(image.shape, dtype=torch.uint8), spacing_mm)
    evaluated = segment_simulated(shipped.hypernetwork, shipped.manifest, simulated, precision=precision)
    assert shipped.manifest.grid.contains(shipped.manifest.grid.snap(spacing_mm)) is not resampled
    assert len(np.unique(served)) == shipped.manifest.architecture.classes
    np.testing.assert_array_equal(served, evaluated.numpy())


def served_labels(settings: FactorySettings, shipped: Checkpoint, folder: Path, spacing_mm: SpacingMm) -> np.ndarray:
    """The label map of ``SCAN``, taken to be of ``spacing_mm``, as a job of a worker leaves it in the store."""
    context = open_context(settings)
    job_id, now, upload = new_job_id(), time.time(), folder / "input.nii.gz"
    upload.write_bytes(SCAN.read_bytes())
    context.blobs.put(job_id, upload.name, upload)
    request = SegmentationRequest(
        model=NAME, checkpoint_digest=shipped.digest, input_name=upload.name, spacing_ras_mm=spacing_mm
    )
    policy = PolicyReport(outside=OutsidePolicy.CLAMP)
    context.jobs.create(Job(id=job_id, model=NAME, policy=policy, created=now, expires=now + 600), request)
    run_job(job_id, context)
    assert context.jobs.get(job_id).state is JobState.SUCCEEDED
    with context.blobs.local(job_id, "labelmap.nii.gz") as path:
        return np.asarray(nibabel.Nifti1Image.from_filename(path).dataobj)
