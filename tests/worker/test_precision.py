"""The arithmetic that a worker computes in: as set, else the faster; told in the job, and nearly the same labels."""

from pathlib import Path
from typing import get_args

import nibabel
import numpy as np
import pytest
import torch

from tests.fixtures.project import PROJECT
from tests.fixtures.settings import FactorySettings
from tests.worker.conftest import Submit
from unet_factory.domain.precision import Precision
from unet_factory.domain.spacing import OutsidePolicy, plan_spacing
from unet_factory.model.checkpoint import Checkpoint, load_checkpoint
from unet_factory.model.in_process import LocalSegmenter
from unet_factory.model.inference import Execution, segment_scan
from unet_factory.model.precision import pick_precision
from unet_factory.platform.model_registry import ModelRegistry
from unet_factory.volume import read_volume
from unet_factory_worker.child import WorkerContext, open_context
from unet_factory_worker.segmentation_task import run_job

CPU = torch.device("cpu")
SHIPPED = PROJECT / "models" / "hippocampus-mr.safetensors"


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_what_is_set_is_not_tried(checkpoint: Checkpoint, precision: Precision) -> None:
    assert pick_precision(precision, checkpoint, torch.device("meta")) == precision


@pytest.mark.parametrize(
    ("seconds", "picked"),
    [
        pytest.param({"float32": 1.0, "bfloat16": 0.5}, "bfloat16", id="faster"),
        pytest.param({"float32": 1.0, "bfloat16": 0.95}, "float32", id="not-worth-it"),
        pytest.param({"float32": 1.0, "bfloat16": 3.0}, "float32", id="emulated"),
    ],
)
def test_auto_takes_bfloat16_where_it_is_clearly_faster(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, seconds: dict[Precision, float], picked: Precision
) -> None:
    monkeypatch.setattr("unet_factory.model.precision._computes_in_bfloat16", lambda device: True)
    monkeypatch.setattr("unet_factory.model.precision._seconds", lambda *given: seconds[given[-1]])
    assert pick_precision("auto", checkpoint, CPU) == picked


def test_a_trial_really_runs_the_network(checkpoint: Checkpoint) -> None:
    assert pick_precision("auto", checkpoint, CPU) in ("float32", "bfloat16")


def test_the_job_tells_its_precision(context: WorkerContext, submit: Submit) -> None:
    job_id = submit(np.random.default_rng(0).random((16, 16, 16), dtype=np.float32))
    run_job(job_id, context)
    assert context.jobs.get(job_id).precision == context.precision == context.settings.precision


def test_without_a_server_the_arithmetic_is_the_worker_s_too(
    settings: FactorySettings, submit: Submit, tmp_path: Path
) -> None:
    """On noise and random weights the two arithmetics differ, which shows whether the choice is heeded."""
    voxels, model = (
        np.random.default_rng(0).random((24, 20, 16), dtype=np.float32),
        ModelRegistry.scan(settings.models_dir),
    )
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), tmp_path / "local.nii")
    served, local = {}, {}
    for precision in get_args(Precision):
        context = open_context(settings.model_copy(update={"precision": precision}))
        job_id = submit(voxels, np.eye(4))
        run_job(job_id, context)
        with context.blobs.local(job_id, "labelmap.nii.gz") as file:
            served[precision] = np.asarray(nibabel.Nifti1Image.from_filename(file).dataobj)
        local[precision] = LocalSegmenter(model.get(), "cpu", precision).segment(tmp_path / "local.nii").labels
    for precision in get_args(Precision):
        np.testing.assert_array_equal(served[precision], local[precision])
    assert (served["float32"] != served["bfloat16"]).any()


def test_bfloat16_gives_nearly_every_voxel_of_a_real_scan_the_same_label() -> None:
    shipped = load_checkpoint(SHIPPED)
    scan = read_volume(PROJECT / "examples" / "hippocampus" / "images" / "hippocampus_004.nii.gz")
    plan = plan_spacing(scan.spacing_ras_mm, shipped.manifest.grid, OutsidePolicy.REJECT)
    unet, window = shipped.hypernetwork.unet(plan.snapped), shipped.manifest.window_at(plan.snapped)
    exact, fast = (
        segment_scan(unet, torch.from_numpy(scan.data), plan, Execution(CPU, window, unet.divisors, precision))
        for precision in ("float32", "bfloat16")
    )
    assert exact.count_nonzero() > 1000
    assert (exact == fast).float().mean() >= 0.999
