"""On a GPU as on a CPU: the same batches, the same loss, the same label map; a run ends with a checkpoint."""

import time
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.fixtures.project import CONFIGS
from unet_factory.domain.manifest import Architecture, Pooling
from unet_factory.model.checkpoint import load_checkpoint
from unet_factory.model.hypernetwork import Hypernetwork
from unet_factory_training.ahead import made_ahead
from unet_factory_training.batches import SpacingBatches
from unet_factory_training.config import Execution, TrainingConfig, read_config
from unet_factory_training.datasets import LabelledScan
from unet_factory_training.engine import start_engine
from unet_factory_training.evaluation import segment_simulated, simulate
from unet_factory_training.loop import manifest_of, train
from unet_factory_training.trainer import Trainer

SUPERVISED = Architecture(classes=3, channels=(4, 6, 6, 6), blocks=1, pooling=Pooling(anisotropy=2))

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


def test_batches_made_ahead_are_whole_when_they_are_used(scans: list[LabelledScan], config: TrainingConfig) -> None:
    """On a stream of their own; a step that did not wait for them would see half a batch."""
    device = torch.device("cuda")
    batches = SpacingBatches([scan.to(device) for scan in scans], config)
    expected = [batches[item].images.sum() for item in range(20)]
    for (batch,), total in zip(made_ahead(((batches[item],) for item in range(20)), device), expected, strict=True):
        assert torch.equal(batch.images.sum(), total)


def executed(config: TrainingConfig, execution: Execution, **optimisation_fields: Any) -> TrainingConfig:
    fields = {"execution": execution, **optimisation_fields}
    return config.model_copy(update={"optimisation": config.optimisation.model_copy(update=fields)})


@pytest.mark.filterwarnings("ignore")  # the compiler warns of itself
@pytest.mark.parametrize("deep_supervision", [False, True])
def test_compiled_steps_have_the_gradients_of_plain_ones(
    scans: list[LabelledScan], config: TrainingConfig, deep_supervision: bool
) -> None:
    """In float32, over batches of many extents and strides, so that graphs are recorded and replayed."""
    config = config.model_copy(update={"architecture": SUPERVISED})
    batches = SpacingBatches([scan.to(torch.device("cuda")) for scan in scans], config)
    plain, compiled = (
        Trainer(executed(config, execution, precision="float32", deep_supervision=deep_supervision), engine)
        for execution in ("eager", "compiled")
        if (engine := start_engine(executed(config, "eager", precision="float32"), "cuda"))
    )
    for item in (*range(6), *range(6)):
        compiled.hypernetwork.load_state_dict(plain.hypernetwork.state_dict())
        losses = [float(trainer.step([batches[item]])) for trainer in (plain, compiled)]
        assert losses[1] == pytest.approx(losses[0], rel=1e-3)
        for one, other in zip(plain.hypernetwork.parameters(), compiled.hypernetwork.parameters(), strict=True):
            assert one.grad is not None
            torch.testing.assert_close(other.grad, one.grad, rtol=1e-2, atol=1e-4 * float(one.grad.abs().max()))


@pytest.mark.filterwarnings("ignore")  # the compiler warns of itself
def test_a_step_of_the_heart_takes_two_fifths_of_the_time(config: TrainingConfig) -> None:
    """Compiled, with batches made ahead, against plain steps with batches made between them; both take turns."""
    heart = read_config(CONFIGS / "heart-mr.yaml", {"start_from": None, "optimisation.iterations": 10_000})
    device, generator = torch.device("cuda"), torch.Generator().manual_seed(0)
    images = [torch.randn(216, 256, 10, generator=generator) for _ in range(8)]
    scans = [LabelledScan(f"{n}", image, (image > 1).byte(), (1.5, 1.5, 10.0)) for n, image in enumerate(images)]
    batches = SpacingBatches([scan.to(device) for scan in scans], heart)
    shares = ((batches[item],) for item in range(len(batches)))
    ways = {
        "plain": (Trainer(executed(heart, "eager"), start_engine(heart, "cuda")), shares),
        "fast": (Trainer(executed(heart, "compiled"), start_engine(heart, "cuda")), made_ahead(shares, device)),
    }
    seconds = {name: list[float]() for name in ways}
    for measured in (False, True, True, True):
        for name, (trainer, source) in ways.items():
            torch.cuda.synchronize()
            started = time.perf_counter()
            for share in islice(source, 50 if measured else 300):  # extents seen for the first time are recorded
                trainer.step(share)
            torch.cuda.synchronize()
            if measured:
                seconds[name].append(time.perf_counter() - started)
    assert min(seconds["plain"]) / min(seconds["fast"]) >= 2.5, seconds


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
