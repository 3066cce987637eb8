"""A worker does to label maps what the manifest says, and tells so in the job and in the DICOM results."""

from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from pydicom import dcmread

from tests.fixtures.dicom_results import labels_ras, provenance, results, scan_of
from tests.fixtures.settings import FactorySettings
from tests.worker.conftest import Submit
from tests.worker.test_segmentation_task import run
from unet_factory.domain.jobs import JobState
from unet_factory.domain.postprocessing import Postprocessing
from unet_factory.model.checkpoint import Checkpoint, load_checkpoint, replace_manifest
from unet_factory.model.postprocessing import postprocess
from unet_factory.platform.manifest_file import read_manifest
from unet_factory_training.evaluation import Simulated, segment_simulated
from unet_factory_worker.child import WorkerContext

SCAN = np.random.default_rng(0).normal(size=(20, 16, 12)).astype(np.float32)  # 1 mm
KEPT = Postprocessing(keep_largest=((1, 2), (2,)))
WORDS = tuple(
    f"only the largest connected component is kept of {what}" for what in ("the whole foreground", "posterior")
)


@pytest.fixture
def settings(settings: FactorySettings, tiny_models: Path, tmp_path: Path) -> FactorySettings:
    (tmp_path / "models").mkdir()
    file = tiny_models / "tiny.safetensors"
    manifest = read_manifest(file).model_copy(update={"postprocessing": KEPT})
    replace_manifest(file, manifest, tmp_path / "models" / file.name)
    return settings.model_copy(update={"models_dir": tmp_path / "models"})


@pytest.fixture
def checkpoint(settings: FactorySettings) -> Checkpoint:
    return load_checkpoint(settings.models_dir / "tiny.safetensors")


def test_a_job_has_the_label_map_as_the_manifest_wants_it(
    context: WorkerContext, submit: Submit, checkpoint: Checkpoint
) -> None:
    job = run(context, submit(SCAN))
    assert (job.state, job.postprocessing) == (JobState.SUCCEEDED, WORDS)
    with context.blobs.local(job.id, "labelmap.nii.gz") as path:
        served = np.asarray(nibabel.Nifti1Image.from_filename(path).dataobj)
    image = torch.from_numpy(SCAN)
    simulated = Simulated(image, torch.zeros(image.shape, dtype=torch.uint8), (1.0, 1.0, 1.0))
    plain = checkpoint.manifest.model_copy(update={"postprocessing": Postprocessing()})
    given = segment_simulated(checkpoint.hypernetwork, plain, simulated)
    expected = postprocess(given.clone(), KEPT)
    assert not torch.equal(given, expected)
    np.testing.assert_array_equal(served, expected.numpy())


def test_dicom_results_tell_of_it(tmp_path: Path) -> None:
    files = results(tmp_path, scan_of(), labels_ras(), made=replace(provenance(), postprocessing=WORDS))
    (algorithm,) = dcmread(files["seg.dcm"]).SegmentSequence[0].SegmentationAlgorithmIdentificationSequence
    assert f"postprocessing={WORDS[0]}; {WORDS[1]}" in str(algorithm.AlgorithmParameters).replace(" = ", "=")
