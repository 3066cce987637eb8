"""Several checkpoints served as one model: what is evaluated is what is served, and members stay what they are."""

import shutil
import time
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from safetensors.torch import load

from tests.fixtures.project import PROJECT
from tests.fixtures.settings import FactorySettings
from tests.fixtures.tiny_model import TinyEnsemble
from unet_factory.domain.errors import CheckpointInvalid, MemberInvalid
from unet_factory.domain.jobs import Job, JobState, PolicyReport, SegmentationRequest, new_job_id
from unet_factory.domain.manifest import Manifest
from unet_factory.domain.plausibility import Axis
from unet_factory.domain.segmentation_parameters import SegmentationParameters
from unet_factory.domain.spacing import OutsidePolicy, SnappedSpacing, plan_spacing
from unet_factory.domain.workload import workload_of
from unet_factory.model.checkpoint import load_checkpoint, standalone_bytes
from unet_factory.model.in_process import LocalSegmenter
from unet_factory.platform.model_registry import ModelRegistry, RegisteredModel
from unet_factory.volume import read_volume
from unet_factory_training.ensemble import Ensemble, write_ensemble
from unet_factory_training.evaluation import Simulated, segment_simulated
from unet_factory_worker.child import open_context
from unet_factory_worker.segmentation_task import run_job

SCAN = PROJECT / "examples" / "hippocampus" / "images" / "hippocampus_004.nii.gz"
FLAT = SnappedSpacing(1000, 500, 2000)


@pytest.fixture(scope="module")
def served(tiny_ensemble: TinyEnsemble) -> RegisteredModel:
    return ModelRegistry.scan(tiny_ensemble.file.parent).get()


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A part of a real one, for two windows."""
    file, whole = tmp_path_factory.mktemp("scan") / "input.nii.gz", nibabel.Nifti1Image.from_filename(SCAN)
    nibabel.save(whole.slicer[:, 10:34, 8:28], file)
    return file


@pytest.mark.parametrize("mirroring", [False, True])
def test_one_file_segments_as_its_members_are_evaluated_together(
    settings: FactorySettings,
    tiny_ensemble: TinyEnsemble,
    served: RegisteredModel,
    scan: Path,
    tmp_path: Path,
    mirroring: bool,
) -> None:
    """By a worker and without a service; and otherwise than the first of them alone."""
    axes = served.manifest.axes_to_mirror(wanted=mirroring)
    voxels = torch.from_numpy(read_volume(scan).data)
    simulated = Simulated(voxels, torch.zeros(voxels.shape, dtype=torch.uint8), (1.0, 1.0, 1.0))
    members = [load_checkpoint(path) for path in tiny_ensemble.members]
    evaluated = segment_simulated(Ensemble(members, axes), members[0].manifest, simulated).numpy()
    alone = segment_simulated(Ensemble(members[:1], axes), members[0].manifest, simulated).numpy()
    assert not np.array_equal(evaluated, alone)
    parameters = SegmentationParameters(mirroring=mirroring)
    np.testing.assert_array_equal(LocalSegmenter(served, "cpu", "float32").segment(scan, parameters).labels, evaluated)
    settings = settings.model_copy(update={"models_dir": tiny_ensemble.file.parent, "precision": "float32"})
    np.testing.assert_array_equal(labels_of_a_job(settings, served, axes, Path(shutil.copy(scan, tmp_path))), evaluated)


def labels_of_a_job(
    settings: FactorySettings,
    model: RegisteredModel,
    axes: tuple[Axis, ...],
    scan: Path,  # which is moved
) -> np.ndarray:
    context, job_id, now = open_context(settings), new_job_id(), time.time()
    context.blobs.put(job_id, scan.name, scan)
    request = SegmentationRequest(
        model="tiny", checkpoint_digest=model.digest, input_name=scan.name, mirroring=bool(axes)
    )
    policy = PolicyReport(outside=OutsidePolicy.CLAMP)
    job = Job(id=job_id, model="tiny", policy=policy, created=now, expires=now + 600, mirrored_axes=axes)
    context.jobs.create(job, request)
    run_job(job_id, context)
    assert context.jobs.get(job_id).state is JobState.SUCCEEDED
    with context.blobs.local(job_id, "labelmap.nii.gz") as path:
        return np.asarray(nibabel.Nifti1Image.from_filename(path).dataobj)


def test_a_member_is_the_network_of_its_own_checkpoint(tiny_ensemble: TinyEnsemble) -> None:
    ensemble = load_checkpoint(tiny_ensemble.file)
    for number, path in enumerate(tiny_ensemble.members, start=1):
        alone = load_checkpoint(path)
        assert ensemble.manifest.members[number - 1].digest == alone.digest
        found, expected = load(standalone_bytes(ensemble, FLAT, member=number)), load(standalone_bytes(alone, FLAT))
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    for wrong in (None, 4):
        with pytest.raises(MemberInvalid, match=r"tiny is an ensemble of 3 networks; .* member=1 to member=3"):
            standalone_bytes(ensemble, FLAT, member=wrong)
    with pytest.raises(MemberInvalid, match="member is 1, but tiny is a single network"):
        standalone_bytes(alone, FLAT, member=1)


def test_every_member_is_paid_for(served: RegisteredModel, tiny_manifest: Manifest) -> None:
    plan = plan_spacing((1.0, 1.0, 1.0), tiny_manifest.grid, OutsidePolicy.CLAMP)
    for mirroring in (False, True):
        one, all_of_them = (
            workload_of(manifest, (70, 40, 30), plan, mirroring=mirroring)
            for manifest in (tiny_manifest, served.manifest)
        )
        assert all_of_them == one.model_copy(update={"windows": 3 * one.windows})


def test_what_is_no_ensemble_is_refused(tiny_ensemble: TinyEnsemble, tmp_path: Path) -> None:
    first, second, _ = tiny_ensemble.members
    for given, reason in (
        ([first], "needs two checkpoints or more"),
        ([first, second, first], "the same checkpoint"),
        ([first, tiny_ensemble.file], "is an ensemble of 3 checkpoints"),
    ):
        with pytest.raises(CheckpointInvalid, match=reason):
            write_ensemble(given, tmp_path / "never.safetensors")
    assert not list(tmp_path.iterdir())
