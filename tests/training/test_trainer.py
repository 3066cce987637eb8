"""One step against a second implementation: which weights, which loss, which average."""

from pathlib import Path

import torch
from torch.func import functional_call
from torch.nn import functional

from unet_factory.model.checkpoint import load_checkpoint
from unet_factory.model.unet import empty_unet
from unet_factory_training.batches import Batch, SpacingBatches
from unet_factory_training.config import TrainingConfig
from unet_factory_training.datasets import LabelledScan
from unet_factory_training.engine import start_engine
from unet_factory_training.loop import STATE_FILE, train
from unet_factory_training.trainer import Trainer


def exact_trainer(config: TrainingConfig) -> Trainer:
    """In float32, with heads large enough for the spacing to matter as after training."""
    optimisation = config.optimisation.model_copy(update={"precision": "float32"})
    config = config.model_copy(update={"optimisation": optimisation})
    trainer = Trainer(config, start_engine(config, "cpu"))
    with torch.no_grad():
        trainer.hypernetwork.heads.mul_(100)
    return trainer


def test_the_loss_is_dice_and_cross_entropy_of_the_network_for_the_batchs_spacing(
    config: TrainingConfig, scans: list[LabelledScan]
) -> None:
    trainer = exact_trainer(config)
    for iteration in range(3):
        batch = SpacingBatches(scans, config)[iteration]
        logits = _logits(trainer, batch, batch.spacing.mm)
        elsewhere = _logits(trainer, batch, (3.5, 0.5, 2.0))
        expected = float(_soft_dice_loss(logits, batch.labels) + functional.cross_entropy(logits, batch.labels[:, 0]))
        mistaken = float(
            _soft_dice_loss(elsewhere, batch.labels) + functional.cross_entropy(elsewhere, batch.labels[:, 0])
        )
        found = trainer.step([batch])
        assert abs(found - expected) < 1e-4
        assert abs(mistaken - expected) > 1e-2, "the spacing has to matter for this test to say anything"


def test_what_ships_is_the_exponential_average(config: TrainingConfig, scans: list[LabelledScan]) -> None:
    """The first step's parameters, then 0.9 of the average and 0.1 of each step's."""
    trainer, expected = exact_trainer(config), None
    for iteration in range(4):
        trainer.step([SpacingBatches(scans, config)[iteration]])
        now = trainer.hypernetwork.bias.detach()
        expected = now.clone() if expected is None else 0.9 * expected + 0.1 * now
    assert expected is not None
    torch.testing.assert_close(trainer.averaged_hypernetwork.bias.detach(), expected, rtol=1e-5, atol=1e-7)
    assert not torch.allclose(expected, trainer.hypernetwork.bias.detach(), atol=1e-5)


def test_a_run_saves_the_average(config: TrainingConfig, tmp_path: Path) -> None:
    shorter = config.model_copy(
        update={"optimisation": config.optimisation.model_copy(update={"iterations": 5}), "validate_every": 5}
    )
    shipped = load_checkpoint(train(shorter, tmp_path, start_engine(shorter, "cpu"))).hypernetwork
    state = torch.load(tmp_path / STATE_FILE, weights_only=True)
    assert torch.equal(shipped.bias, state["average"]["module.bias"])
    assert not torch.equal(shipped.bias, state["hypernetwork"]["bias"])


def _logits(trainer: Trainer, batch: Batch, spacing_mm: tuple[float, float, float]) -> torch.Tensor:
    with torch.no_grad():
        weights = trainer.hypernetwork(torch.tensor(spacing_mm))
        logits: torch.Tensor = functional_call(
            empty_unet(trainer.config.architecture, batch.spacing), weights, batch.images
        )
    return logits


def _soft_dice_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """1 - the mean over foreground classes of 2 sum(p g) / (sum(p) + sum(g)), sums over the whole batch."""
    shares = logits.softmax(dim=1)[:, 1:]
    truth = torch.stack([labels[:, 0] == value for value in range(1, logits.shape[1])], dim=1).float()
    over = (0, 2, 3, 4)
    return 1 - (2 * (shares * truth).sum(over) / (shares.sum(over) + truth.sum(over))).mean()
