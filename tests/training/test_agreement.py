"""Consistency between two views, and a teacher: what they add to the loss, and where their gradients go."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from unet_factory.domain.errors import CheckpointInvalid
from unet_factory.domain.manifest import HypernetworkShape, Parametrization
from unet_factory.domain.spacing import SpacingMm
from unet_factory.model.checkpoint import load_checkpoint, save_checkpoint, standalone_bytes
from unet_factory.model.hypernetwork import Hypernetwork
from unet_factory.model.unet import empty_unet
from unet_factory_training.agreement import Agreement, Teacher, divergence
from unet_factory_training.batch import Batch
from unet_factory_training.batches import SpacingBatches
from unet_factory_training.config import Distillation, OptimisationConfig, TrainingConfig
from unet_factory_training.datasets import LabelledScan
from unet_factory_training.engine import start_engine
from unet_factory_training.loop import manifest_of
from unet_factory_training.trainer import Trainer

FINE, COARSE = (1.0, 1.0, 1.2), (2.0, 1.0, 2.4)
TEACHER_MM = 1.0


def logits(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return 2 * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def changed(config: TrainingConfig, **optimisation: Any) -> TrainingConfig:
    """Two views, in float32, without clipping."""
    fields = {**config.optimisation.model_dump(), "precision": "float32", "clip_norm": None, **optimisation}
    sampling = config.sampling.model_copy(update={"views": 2})
    update = {"sampling": sampling, "optimisation": OptimisationConfig.model_validate(fields)}
    return config.model_copy(update=update)


@pytest.fixture
def teacher(config: TrainingConfig, tmp_path: Path) -> Path:
    """A checkpoint of FS: the same weights for all spacings, trained at one."""
    point = ((TEACHER_MM, TEACHER_MM),) * 3
    constant = HypernetworkShape(parametrization=Parametrization.CONSTANT)
    fixed = config.model_copy(update={"hypernetwork": constant, "trained_range_mm": point, "name": "fs"})
    torch.manual_seed(3)
    hypernetwork, path = Hypernetwork(fixed.architecture, constant, fixed.grid), tmp_path / "fs.safetensors"
    with torch.no_grad():
        hypernetwork.bias.mul_(3)
    save_checkpoint(path, hypernetwork, manifest_of(fixed))
    return path


def test_pooled_probabilities_are_compared_on_the_coarser_grid() -> None:
    """Where both grids are the same, by the definition of the divergence; where not, pooled ones by themselves."""
    found, wanted = logits(2, 3, 4, 4, 4), logits(2, 3, 4, 4, 4, seed=1)
    p, q = (wanted / 2).softmax(1), (found / 2).softmax(1)
    expected = 4 * (p * (p.log() - q.log())).sum(1).mean()
    torch.testing.assert_close(divergence(found, FINE, wanted, FINE, 2.0), expected)
    assert float(divergence(found, FINE, found, FINE)) == pytest.approx(0, abs=1e-6)
    uniform = torch.zeros(2, 3, 4, 6, 4)
    sure = torch.zeros(2, 3, 8, 6, 8)
    sure[:, 1] = 30
    for each, mm, other, other_mm in ((uniform, COARSE, sure, FINE), (uniform, FINE, sure, COARSE)):
        fitting = sure[..., :4, :, :4] if other_mm == COARSE else other
        whole = torch.zeros(2, 3, 8, 6, 8) if mm == FINE else each
        assert float(divergence(whole, mm, fitting, other_mm)) == pytest.approx(torch.tensor(3.0).log().item())


@pytest.mark.parametrize(("found_mm", "wanted_mm"), [(COARSE, FINE), (FINE, COARSE), ((1.0, 2.0, 1.2), COARSE)])
def test_the_gradient_of_the_divergence(found_mm: SpacingMm, wanted_mm: SpacingMm) -> None:
    """Against finite differences, with pooling on either side or on both."""
    extents_mm = (8.0, 8.0, 4.8)
    of_found, of_wanted = (
        [round(extent / mm) for extent, mm in zip(extents_mm, spacing, strict=True)]
        for spacing in (found_mm, wanted_mm)
    )
    found = logits(1, 2, *of_found, dtype=torch.float64).requires_grad_()
    wanted = logits(1, 2, *of_wanted, seed=1, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda at: divergence(at, found_mm, wanted, wanted_mm, 2.0), found)


def test_consistency_adds_to_the_mean_loss_of_both_views(config: TrainingConfig, scans: list[LabelledScan]) -> None:
    weight = 0.7
    trainer = exact(changed(config, consistency_weight=weight))
    batch = SpacingBatches(scans, trainer.config)[0]
    assert batch.coarser is not None
    finer, coarser = (run(trainer, view) for view in batch.views)
    losses = [trainer.loss(found, view.labels) for found, view in zip((finer, coarser), batch.views, strict=True)]
    n = [round(n * a / b) for n, a, b in zip(finer.shape[2:], batch.spacing, batch.coarser.spacing, strict=True)]
    inside = coarser[..., : n[0], : n[1], : n[2]]
    term = divergence(inside, batch.coarser.spacing.mm, finer, batch.spacing.mm)
    assert float(term.detach()) > 1e-3
    expected = float((sum(losses) / 2 + weight * term).detach())
    assert float(trainer.step([batch])) == pytest.approx(expected, abs=1e-5)


def test_the_finer_view_is_the_target_of_consistency(config: TrainingConfig, scans: list[LabelledScan]) -> None:
    two = changed(config, consistency_weight=1.0)
    batch = SpacingBatches(scans, two)[0]
    found = [logits(len(batch.names), 3, *view.images.shape[2:], seed=at) for at, view in enumerate(batch.views)]
    for each in found:
        each.requires_grad_()
    Agreement(two, torch.device("cpu"))(batch, found).backward()
    assert found[0].grad is None
    assert found[1].grad is not None
    assert found[1].grad.abs().sum() > 0


def test_a_teacher_is_asked_at_its_own_spacing(
    config: TrainingConfig, scans: list[LabelledScan], teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At that spacing its logits are those of its network; elsewhere crops are brought there. From a checkpoint, or
    from a standalone network, whose file says the same."""
    monkeypatch.setenv("TEACHERS", str(teacher.parent))
    asked = Teacher("$TEACHERS/fs.safetensors", 3, torch.device("cpu"))
    assert asked.spacing.mm == (TEACHER_MM,) * 3
    images = logits(2, 1, 8, 12, 8)
    there = asked.logits(images, asked.spacing.mm)
    torch.testing.assert_close(there, asked.unet(images))
    assert asked.logits(images, (2.0, 1.0, 1.5)).shape == (2, 3, 16, 12, 12)
    standalone = teacher.parent / "unet.safetensors"
    standalone.write_bytes(standalone_bytes(load_checkpoint(teacher), asked.spacing))
    again = Teacher(str(standalone), 3, torch.device("cpu"))
    assert again.spacing == asked.spacing
    torch.testing.assert_close(again.logits(images, (1.5, 1.0, 1.0)), asked.logits(images, (1.5, 1.0, 1.0)))


def test_a_teacher_that_does_not_fit_is_refused(config: TrainingConfig, teacher: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointInvalid, match="has 3 classes; the configuration has 2"):
        Teacher(str(teacher), 2, torch.device("cpu"))
    ranging = tmp_path / "range.safetensors"
    hypernetwork = Hypernetwork(config.architecture, config.hypernetwork, config.grid)
    save_checkpoint(ranging, hypernetwork, manifest_of(config))
    with pytest.raises(CheckpointInvalid, match="a teacher must be a standalone network, or a checkpoint"):
        Teacher(str(ranging), 3, torch.device("cpu"))


def test_distillation_adds_the_divergence_from_the_teacher(
    config: TrainingConfig, scans: list[LabelledScan], teacher: Path
) -> None:
    """What it adds to the loss, and to the gradient, is the divergence, worked out beside it, times its weight."""
    told = Distillation(teacher=str(teacher), weight=0.5, temperature=3.0)
    one_view = changed(config).model_copy(update={"sampling": config.sampling})
    batch = SpacingBatches(scans, one_view)[2]
    plain, taught = exact(one_view), exact(one_view.model_copy(update={"distillation": told}))
    alone = exact(one_view)
    term = 0.5 * apart(alone, batch, taught)
    assert float(term.detach()) > 1e-3
    losses = [float(trainer.step([batch])) for trainer in (plain, taught)]
    assert losses[1] - losses[0] == pytest.approx(float(term.detach()), rel=1e-3)
    of_plain, of_taught = (trainer.hypernetwork.bias.grad for trainer in (plain, taught))
    assert of_plain is not None
    assert of_taught is not None
    expected = torch.autograd.grad(term, alone.hypernetwork.bias)[0]
    torch.testing.assert_close(of_taught - of_plain, expected, rtol=1e-3, atol=1e-5)


def test_a_run_with_both_terms_resumes_as_if_nothing_had_been(
    config: TrainingConfig, scans: list[LabelledScan], teacher: Path, tmp_path: Path
) -> None:
    both = changed(config, consistency_weight=0.5)
    both = both.model_copy(update={"distillation": Distillation(teacher=str(teacher))})
    batches, path = SpacingBatches(scans, both), tmp_path / "state.pt"
    whole = exact(both)
    whole.step([batches[0]])
    whole.save(path)
    resumed = exact(both)
    resumed.resume(path)
    assert resumed.step([batches[1]]) == whole.step([batches[1]])
    for name, tensor in whole.averaged_hypernetwork.state_dict().items():
        assert torch.equal(tensor, resumed.averaged_hypernetwork.state_dict()[name]), name


def exact(config: TrainingConfig) -> Trainer:
    """With heads large enough for the spacing to matter."""
    trainer = Trainer(config, start_engine(config, "cpu"))
    with torch.no_grad():
        trainer.hypernetwork.heads.mul_(100)
    return trainer


def run(trainer: Trainer, view: Batch) -> Tensor:
    weights = trainer.hypernetwork(torch.tensor(view.spacing.mm))
    found: Tensor = functional_call(empty_unet(trainer.config.architecture, view.spacing), weights, view.images)
    return found


def apart(trainer: Trainer, batch: Batch, taught: Trainer) -> Tensor:
    """How far a network is from another's teacher, at temperature 3."""
    teacher = taught.agreement.teacher
    assert teacher is not None
    wanted = teacher.logits(batch.images, batch.spacing.mm)
    return divergence(run(trainer, batch), batch.spacing.mm, wanted, teacher.spacing.mm, 3.0)
