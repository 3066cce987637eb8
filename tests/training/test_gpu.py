"""On a GPU as on a CPU: the same batches, the same loss, the same label map; a run ends with a checkpoint."""

from pathlib import Path

import pytest
import torch

from unet_factory.model.checkpoint import load_checkpoint
from unet_factory.model.hypernetwork import Hypernetwork
from unet_factory_training.batches import SpacingBatches
from unet_factory_training.config import TrainingConfig
from unet_factory_training.datasets import LabelledScan
from unet_factory_training.engine import start_engine
from unet_factory_training.evaluation import segment_simulated, simulate
from unet_factory_training.loop import manifest_of, train
from unet_factory_training.trainer import Trainer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]


@pytest.fixture(autouse=True)
def _whole_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolutions in TF32, PyTorch's default on GPUs, are as exact as bfloat16 only."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def test_batches_are_those_of_a_cpu(scans: list[LabelledScan], config: TrainingConfig) -> None:
    on_gpu = [scan.to(torch.device("cuda")) for scan in scans]
    for iteration in range(20):
        expected, found = (SpacingBatches(source, config)[iteration] for source in (scans, on_gpu))
        assert found.images.device.type == "cuda"
        assert (found.spacing, found.names) == (expected.spacing, expected.names)
        torch.testing.assert_close(found.images.cpu(), expected.images, rtol=1e-3, atol=1e-3)
        assert (found.labels.cpu() == expected.labels).float().mean() > 0.999


def test_steps_lose_as_much_as_on_a_cpu(scans: list[LabelledScan], config: TrainingConfig) -> None:
    optimisation = config.optimisation.model_copy(update={"precision": "float32"})
    exact = config.model_copy(update={"optimisation": optimisation})
    batches = SpacingBatches(scans, exact)
    losses = {}
    for device in ("cpu", "cuda"):
        trainer = Trainer(exact, start_engine(exact, device))
        losses[device] = [float(trainer.step([batches[iteration]])) for iteration in range(5)]
    assert losses["cuda"] == pytest.approx(losses["cpu"], rel=2e-3)


def test_the_host_does_not_wait_for_a_step(scans: list[LabelledScan], config: TrainingConfig) -> None:
    """PyTorch raises where an operation would wait for the device; the step after which losses are checked may."""
    trainer = Trainer(config, start_engine(config, "cuda"))
    batch = SpacingBatches([scan.to(torch.device("cuda")) for scan in scans], config)[0]
    trainer.step([batch])
    torch.cuda.set_sync_debug_mode("error")
    try:
        losses = [trainer.step([batch]) for _ in range(5)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    trainer.check()
    assert all(loss.device.type == "cuda" and torch.isfinite(loss) for loss in losses)


def test_a_label_map_is_that_of_a_cpu(scans: list[LabelledScan], config: TrainingConfig) -> None:
    torch.manual_seed(0)
    hypernetwork = Hypernetwork(config.architecture, config.hypernetwork, config.grid)
    manifest = manifest_of(config)
    for spacing_mm in ((1.0, 1.0, 1.2), (2.0, 1.5, 3.0)):
        simulated = simulate(scans[0], spacing_mm, config.architecture.classes)
        expected = segment_simulated(hypernetwork.cpu(), manifest, simulated)
        found = segment_simulated(hypernetwork.cuda(), manifest, simulated)
        assert (found == expected).float().mean() > 0.999


def test_a_run_ends_with_a_checkpoint(config: TrainingConfig, tmp_path: Path) -> None:
    path = train(config, tmp_path, start_engine(config, "cuda"))
    assert load_checkpoint(path).manifest.name == config.name
    assert (tmp_path / "validation.csv").exists()
