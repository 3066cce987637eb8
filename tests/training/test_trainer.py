"""One step against a second implementation: which weights, which loss, which average, and what is saved of it."""

import math
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.func import functional_call
from torch.nn import functional

from unet_factory.domain.conditions import Condition
from unet_factory.domain.errors import CheckpointInvalid
from unet_factory.domain.manifest import HypernetworkShape, Label, Manifest, Parametrization
from unet_factory.model.checkpoint import load_checkpoint, save_checkpoint
from unet_factory.model.hypernetwork import Hypernetwork
from unet_factory.model.unet import empty_unet
from unet_factory_training.batch import Batch
from unet_factory_training.batches import SpacingBatches
from unet_factory_training.config import OptimisationConfig, TrainingConfig
from unet_factory_training.datasets import LabelledScan
from unet_factory_training.engine import start_engine
from unet_factory_training.loop import STATE_FILE, train
from unet_factory_training.trainer import Trainer, TrainingDiverged, learning_rate_at


def exact_trainer(config: TrainingConfig, **optimisation_fields: Any) -> Trainer:
    """In float32, with heads large enough for the spacing to matter as after training."""
    optimisation = config.optimisation.model_copy(update={"precision": "float32", **optimisation_fields})
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
        found = float(trainer.step([batch]))
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


def test_a_step_follows_the_mean_gradient_of_its_batches(config: TrainingConfig, scans: list[LabelledScan]) -> None:
    first, second = (SpacingBatches(scans, config)[iteration] for iteration in (0, 1))
    gradients, losses = [], []
    for batches in ([first], [second], [first, second]):
        trainer = exact_trainer(config, clip_norm=None)
        losses.append(float(trainer.step(batches)))
        gradients.append(_gradient(trainer))
    assert losses[2] == pytest.approx((losses[0] + losses[1]) / 2, abs=1e-6)
    torch.testing.assert_close(gradients[2], (gradients[0] + gradients[1]) / 2, rtol=1e-3, atol=1e-6)
    assert not torch.allclose(gradients[0], gradients[1], rtol=1e-2)


def test_gradients_do_not_add_up_over_steps(config: TrainingConfig, scans: list[LabelledScan]) -> None:
    """At a learning rate of 0 the same batch gives the same gradient again."""
    trainer, batch = exact_trainer(config, clip_norm=None, learning_rate=0.0), SpacingBatches(scans, config)[0]
    trainer.step([batch])
    first = _gradient(trainer)
    trainer.step([batch])
    torch.testing.assert_close(_gradient(trainer), first)
    assert trainer.iteration == 2


def test_long_gradients_are_clipped(config: TrainingConfig, scans: list[LabelledScan]) -> None:
    batch = SpacingBatches(scans, config)[0]
    plain, clipped = exact_trainer(config, clip_norm=None), exact_trainer(config, clip_norm=1e-3)
    plain.step([batch])
    clipped.step([batch])
    assert _gradient(plain).norm() > 1e-2
    assert _gradient(clipped).norm() == pytest.approx(1e-3, rel=1e-3)
    assert torch.nn.functional.cosine_similarity(_gradient(clipped), _gradient(plain), dim=0) > 0.999


def test_adam_takes_one_learning_rate_at_first(config: TrainingConfig, scans: list[LabelledScan]) -> None:
    """Its first step is the sign of the gradient times the rate, here the first of two iterations of warm-up."""
    trainer = exact_trainer(config, learning_rate=0.01, warmup=2, iterations=1000, clip_norm=None)
    before = trainer.hypernetwork.bias.detach().clone()
    trainer.step([SpacingBatches(scans, config)[0]])
    gradient = trainer.hypernetwork.bias.grad
    assert gradient is not None
    clear = gradient.abs() > 1e-5
    assert clear.float().mean() > 0.5
    moved = (trainer.hypernetwork.bias.detach() - before)[clear]
    torch.testing.assert_close(moved, -0.005 * gradient[clear].sign(), rtol=5e-3, atol=1e-6)


def test_only_the_heads_decay(config: TrainingConfig, scans: list[LabelledScan]) -> None:
    """By the first of two iterations of warm-up, 0.01 / 2, times the decay."""
    batch = SpacingBatches(scans, config)[0]
    trainers = [exact_trainer(config, learning_rate=0.01, warmup=2, heads_decay=decay) for decay in (0.0, 20.0)]
    for trainer in trainers:
        trainer.step([batch])
    kept, decayed = (trainer.hypernetwork for trainer in trainers)
    torch.testing.assert_close(decayed.heads, kept.heads * (1 - 0.005 * 20))
    assert torch.equal(decayed.bias, kept.bias)


def test_the_learning_rate_by_hand() -> None:
    """Warm-up in four steps; half a cosine: all of it at first, half in the middle, a quarter at two thirds."""
    cosine = OptimisationConfig(iterations=1200, learning_rate=0.1, warmup=4)
    expected = {0: 0.025, 1: 0.05, 2: 0.075, 3: 0.1, 4: 0.1, 600: 0.05, 800: 0.025, 1200: 0.0}
    for iteration, rate in expected.items():
        assert learning_rate_at(iteration, cosine) == pytest.approx(rate, abs=1e-5), iteration
    constant = cosine.model_copy(update={"schedule": "constant"})
    assert [learning_rate_at(iteration, constant) for iteration in (0, 3, 600, 1200)] == [0.025, 0.1, 0.1, 0.1]
    sudden = constant.model_copy(update={"warmup": 0})
    assert learning_rate_at(0, sudden) == 0.1


def test_the_seed_alone_decides_where_a_run_starts(config: TrainingConfig) -> None:
    torch.manual_seed(1)
    first = exact_trainer(config).hypernetwork
    torch.manual_seed(2)
    again = exact_trainer(config).hypernetwork
    other = exact_trainer(config.model_copy(update={"seed": 5})).hypernetwork
    assert torch.equal(first.bias, again.bias)
    assert not torch.equal(first.bias, other.bias)


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_a_resumed_run_goes_on_as_if_nothing_had_been(
    config: TrainingConfig, scans: list[LabelledScan], tmp_path: Path, schedule: str
) -> None:
    batches = [SpacingBatches(scans, config)[iteration] for iteration in range(4)]
    whole, path = exact_trainer(config, schedule=schedule), tmp_path / "state.pt"
    for batch in batches[:2]:
        whole.step([batch])
    whole.save(path)
    assert [file.name for file in tmp_path.iterdir()] == ["state.pt"]
    resumed = exact_trainer(config, schedule=schedule)
    resumed.resume(path)
    assert resumed.iteration == 2
    for batch in batches[2:]:
        assert resumed.step([batch]) == whole.step([batch])
    for one, other in (
        (resumed.hypernetwork, whole.hypernetwork),
        (resumed.averaged_hypernetwork, whole.averaged_hypernetwork),
    ):
        for name, tensor in one.state_dict().items():
            assert torch.equal(tensor, other.state_dict()[name]), name


def test_a_state_that_holds_more_than_tensors_and_numbers_is_not_unpickled(
    config: TrainingConfig, tmp_path: Path
) -> None:
    trainer, path = exact_trainer(config), tmp_path / "state.pt"
    trainer.save(path)
    state = torch.load(path, weights_only=True)
    torch.save({**state, "more": tmp_path}, path)
    with pytest.raises(pickle.UnpicklingError):
        trainer.resume(path)


def test_without_a_state_a_run_starts_anew(config: TrainingConfig, tmp_path: Path) -> None:
    trainer = exact_trainer(config)
    before = trainer.hypernetwork.bias.detach().clone()
    trainer.resume(tmp_path / "state.pt")
    assert trainer.iteration == 0
    assert torch.equal(trainer.hypernetwork.bias, before)


def test_a_loss_that_is_not_finite_stops_the_run(config: TrainingConfig, scans: list[LabelledScan]) -> None:
    told = tuple(Condition(name=name, minimum=0, maximum=90, step=0.5, default=1.5) for name in ("field_t", "flip_deg"))
    trainer = exact_trainer(config.model_copy(update={"conditions": told}))
    trainer.iteration = 7
    batch = replace(SpacingBatches(scans, config)[0], conditions=(1.5, 8.0))
    broken = replace(batch, images=batch.images * math.nan)
    before = trainer.hypernetwork.bias.detach().clone()
    names = ", ".join(batch.names)
    conditions = "condition 1.5, condition 8, "
    expected = f"the loss is nan at iteration 7: spacing {batch.spacing} mm, {conditions}scans {names}"
    with pytest.raises(TrainingDiverged) as caught:
        trainer.step([batch, broken])
    assert str(caught.value) == expected
    assert torch.equal(trainer.hypernetwork.bias, before)


def test_a_gradient_that_is_not_finite_stops_the_run(config: TrainingConfig, scans: list[LabelledScan]) -> None:
    trainer = exact_trainer(config)
    before = trainer.hypernetwork.bias.detach().clone()
    trainer.hypernetwork.bias.register_hook(lambda gradient: gradient * math.inf)
    batches = [SpacingBatches(scans, config)[iteration] for iteration in (0, 1)]
    with pytest.raises(
        TrainingDiverged, match=rf"the gradient is (nan|inf) at iteration 0: .*; spacing {batches[1].spacing}"
    ):
        trainer.step(batches)
    assert torch.equal(trainer.hypernetwork.bias, before)


def test_a_broken_step_changes_nothing_until_it_is_checked(
    config: TrainingConfig, scans: list[LabelledScan], tmp_path: Path
) -> None:
    """As on a GPU, where the host does not wait for each step."""
    trainer = exact_trainer(config, heads_decay=1.0)
    trainer.check_every = 100
    batches = [SpacingBatches(scans, config)[iteration] for iteration in (0, 1)]
    trainer.step([batches[0]])
    before = {name: tensor.clone() for name, tensor in trainer.hypernetwork.state_dict().items()}
    trainer.step([replace(batches[1], images=batches[1].images * math.nan)])
    for name, tensor in trainer.hypernetwork.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    with pytest.raises(TrainingDiverged, match=rf"the loss is nan at iteration 1: spacing {batches[1].spacing} mm"):
        trainer.save(tmp_path / "state.pt")
    assert not list(tmp_path.iterdir())


def test_steps_that_are_checked_late_are_the_same_steps(config: TrainingConfig, scans: list[LabelledScan]) -> None:
    eager, late = exact_trainer(config, heads_decay=1.0), exact_trainer(config, heads_decay=1.0)
    late.check_every = 100
    for iteration in range(3):
        batch = SpacingBatches(scans, config)[iteration]
        assert float(eager.step([batch])) == float(late.step([batch]))
    late.check()
    for name, tensor in eager.averaged_hypernetwork.state_dict().items():
        assert torch.equal(tensor, late.averaged_hypernetwork.state_dict()[name]), name


def test_a_run_can_start_from_a_checkpoint_of_the_same_sizes(
    config: TrainingConfig, tiny_manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, path = exact_trainer(config.model_copy(update={"seed": 9})).hypernetwork, tmp_path / "start.safetensors"
    monkeypatch.setenv("STARTS", str(tmp_path))
    fields = {"architecture": config.architecture, "hypernetwork": config.hypernetwork, "grid": config.grid}
    save_checkpoint(path, start, tiny_manifest.model_copy(update=fields))
    tuned = config.model_copy(update={"start_from": "$STARTS/start.safetensors"})
    trainer = Trainer(tuned, start_engine(tuned, "cpu"))
    for name, tensor in trainer.hypernetwork.state_dict().items():
        assert torch.equal(tensor, start.state_dict()[name]), name
    wider = tuned.model_copy(update={"hypernetwork": HypernetworkShape(hidden=(8, 6))})
    with pytest.raises(CheckpointInvalid, match="does not fit the configuration"):
        Trainer(wider, start_engine(wider, "cpu"))


def saved(config: TrainingConfig, manifest: Manifest, path: Path, *, factor: float = 100) -> Hypernetwork:
    """A finished checkpoint of ``config`` at ``path``, with heads that matter."""
    torch.manual_seed(3)
    finished = Hypernetwork(config.architecture, config.hypernetwork, config.grid)
    with torch.no_grad():
        finished.heads.mul_(factor)
    labels = tuple(Label(value=value, name=f"label {value}") for value in range(config.architecture.classes))
    fields = {"architecture": config.architecture, "hypernetwork": config.hypernetwork, "labels": labels}
    save_checkpoint(path, finished, manifest.model_copy(update={**fields, "grid": config.grid}))
    return finished


def test_a_run_can_start_from_a_network_that_is_the_same_for_all_spacings(
    config: TrainingConfig, scans: list[LabelledScan], tiny_manifest: Manifest, tmp_path: Path
) -> None:
    """It starts as that network everywhere, and the heads are free to move."""
    path = tmp_path / "as.safetensors"
    constant = HypernetworkShape(parametrization=Parametrization.CONSTANT)
    finished = saved(config.model_copy(update={"hypernetwork": constant}), tiny_manifest, path)
    tuned = config.model_copy(update={"start_from": str(path)})
    trainer = Trainer(tuned, start_engine(tuned, "cpu"))
    for mm in ((0.5, 0.5, 0.5), (3.0, 1.0, 2.0)):
        weights = trainer.hypernetwork.generate(config.grid.snap(mm))
        for name, tensor in finished.generate(config.grid.snap(mm)).items():
            assert torch.equal(weights[name], tensor), name
    trainer.step([SpacingBatches(scans, tuned)[0]])
    assert trainer.hypernetwork.heads.abs().max() > 0


def test_the_last_layer_starts_afresh_for_other_classes(
    config: TrainingConfig, tiny_manifest: Manifest, tmp_path: Path
) -> None:
    path, spacing = tmp_path / "start.safetensors", config.grid.snap((1.0, 2.0, 3.0))
    fewer = config.model_copy(update={"architecture": config.architecture.model_copy(update={"classes": 2})})
    finished = saved(fewer, tiny_manifest, path).generate(spacing)
    tuned = config.model_copy(update={"start_from": str(path)})
    found = Trainer(tuned, start_engine(tuned, "cpu")).hypernetwork.generate(spacing)
    assert {name for name, tensor in finished.items() if tensor.shape != found[name].shape} == {
        "head.weight",
        "head.bias",
    }
    for name, tensor in finished.items():
        assert name.startswith("head.") or torch.equal(found[name], tensor), name
    other = tuned.model_copy(update={"architecture": config.architecture.model_copy(update={"channels": (4, 6)})})
    with pytest.raises(CheckpointInvalid, match=r"the U-Nets differ in encoders\.1"):
        Trainer(other, start_engine(other, "cpu"))


def _gradient(trainer: Trainer) -> torch.Tensor:
    gradients = [parameter.grad for parameter in trainer.hypernetwork.parameters()]
    return torch.cat([gradient.flatten().clone() for gradient in gradients if gradient is not None])


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
