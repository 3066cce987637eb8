"""nnU-Net's recipe: one value of a configuration, and what each of its parts does."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch.func import functional_call
from torch.nn import functional

from tests.fixtures.project import CONFIGS
from tests.fixtures.training_data import STILL
from unet_factory.domain.manifest import Architecture
from unet_factory.model.checkpoint import load_checkpoint
from unet_factory.model.unet import empty_unet, weight_shapes
from unet_factory_research.comparison.config import Arm, Comparison
from unet_factory_training.augmentation import random_positions_mm
from unet_factory_training.batches import SpacingBatches
from unet_factory_training.config import AugmentationConfig, OptimisationConfig, TrainingConfig, read_config
from unet_factory_training.datasets import LabelledScan, read_split
from unet_factory_training.engine import start_engine
from unet_factory_training.loop import train
from unet_factory_training.network import labels_by_level, level_weights
from unet_factory_training.nnunet_intensity import nnunet_intensity
from unet_factory_training.trainer import Trainer, learning_rate_at

HEART = CONFIGS / "heart-mr.yaml"


def test_the_recipe_changes_a_file_and_is_changed_by_what_is_set_beside_it() -> None:
    plain, recipe = read_config(HEART), read_config(HEART, {"recipe": "nnunet"})
    assert (plain.optimisation.optimiser, plain.augmentation.flip_axes) == ("adam", ())
    assert (recipe.optimisation.optimiser, recipe.optimisation.learning_rate) == ("sgd", 0.01)
    assert (recipe.augmentation.flip_axes, recipe.augmentation.intensity) == ((0, 1, 2), "nnunet")
    assert (recipe.optimisation.iterations, recipe.batch.voxels) == (9000, plain.batch.voxels)
    changed = read_config(
        HEART, {"augmentation.flip_axes": [0], "optimisation.learning_rate": 0.02, "recipe": "nnunet"}
    )
    assert (changed.augmentation.flip_axes, changed.optimisation.learning_rate) == ((0,), 0.02)
    assert changed.augmentation.rotation_probability == 0.2


def test_a_file_changes_the_recipe_that_it_names(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(HEART.read_text() + "recipe: nnunet\n")
    own = read_config(path)
    assert (own.optimisation.learning_rate, own.augmentation.flip_axes) == (0.0005, ())
    assert (own.optimisation.optimiser, own.augmentation.intensity) == ("sgd", "nnunet")
    with pytest.raises(ValidationError, match="recipe"):
        read_config(HEART, {"recipe": "unknown"})


def test_an_arms_recipe_changes_what_all_arms_share() -> None:
    arms = {"plain": Arm(), "recipe": Arm(overrides={"recipe": "nnunet"})}
    shared = {"optimisation.learning_rate": 0.0007, "optimisation.iterations": 5}
    comparison = Comparison(name="c", title="c", base=HEART, overrides=shared, arms=arms, reference="plain")
    found = {arm: comparison.training_config(arm, 1).optimisation for arm in arms}
    assert (found["plain"].learning_rate, found["recipe"].learning_rate) == (0.0007, 0.01)
    assert (found["plain"].iterations, found["recipe"].iterations) == (5, 5)


def test_the_polynomial_by_hand() -> None:
    polynomial = OptimisationConfig(iterations=1000, learning_rate=0.01, schedule="polynomial", warmup=0)
    for iteration, rate in {0: 0.01, 500: 0.01 * 0.5**0.9, 900: 0.01 * 0.1**0.9, 1000: 0.0}.items():
        assert learning_rate_at(iteration, polynomial) == pytest.approx(rate, abs=1e-9)


def with_optimisation(config: TrainingConfig, **fields: object) -> TrainingConfig:
    optimisation = {**config.optimisation.model_dump(), "precision": "float32", "clip_norm": None, **fields}
    return config.model_copy(update={"optimisation": OptimisationConfig.model_validate(optimisation)})


def test_steps_are_those_of_nesterovs_momentum(config: TrainingConfig, scans: list[LabelledScan]) -> None:
    """Worked out beside it from the gradients of two steps (Sutskever et al., 2013, as PyTorch writes it)."""
    rate, momentum, decay = 0.01, 0.99, 3e-5
    fields = {"optimiser": "sgd", "learning_rate": rate, "weight_decay": decay, "schedule": "constant", "warmup": 0}
    trainer = Trainer(with_optimisation(config, **fields), start_engine(config, "cpu"))
    bias = trainer.hypernetwork.bias
    expected, velocity = bias.detach().clone(), torch.zeros_like(bias)
    for iteration in range(2):
        trainer.step([SpacingBatches(scans, config)[iteration]])
        assert bias.grad is not None
        gradient = bias.grad + decay * expected
        velocity = momentum * velocity + gradient
        expected = expected - rate * (gradient + momentum * velocity)
        torch.testing.assert_close(bias.detach(), expected, rtol=1e-5, atol=1e-7)


def test_a_broken_step_of_momentum_changes_nothing(config: TrainingConfig, scans: list[LabelledScan]) -> None:
    """Nor does the momentum: the next step is the one that would have followed without it."""
    fields = {"optimiser": "sgd", "learning_rate": 0.01, "schedule": "constant", "warmup": 0}
    whole, broken = (Trainer(with_optimisation(config, **fields), start_engine(config, "cpu")) for _ in range(2))
    broken.check_every = 100
    first, second = (SpacingBatches(scans, config)[iteration] for iteration in (0, 1))
    for trainer in (whole, broken):
        trainer.step([first])
    broken.step([replace(first, images=first.images * float("nan"))])
    assert torch.equal(broken.hypernetwork.bias, whole.hypernetwork.bias)
    for trainer in (whole, broken):
        trainer.step([second])
    assert torch.equal(broken.hypernetwork.bias, whole.hypernetwork.bias)


DEEP = Architecture(classes=3, channels=(4, 6, 8, 8), blocks=1)


def test_deep_supervision_adds_the_loss_of_a_coarser_level(config: TrainingConfig, scans: list[LabelledScan]) -> None:
    """Two thirds and one third; logits are a 1x1x1 convolution of what the decoder's second level gives."""
    deep = with_optimisation(config.model_copy(update={"architecture": DEEP}), deep_supervision=True)
    trainer, batch = Trainer(deep, start_engine(deep, "cpu")), SpacingBatches(scans, deep)[0]
    unet, features = empty_unet(DEEP, batch.spacing), []
    *_, last = unet.decoders[1].children()
    last.register_forward_hook(lambda _, __, found: features.append(found))
    with torch.no_grad():
        weights = trainer.hypernetwork(torch.tensor(batch.spacing.mm))
        logits = functional_call(unet, weights, (batch.images,))
        (output,) = trainer.outputs
        assert [tuple(parameter.shape) for parameter in output.parameters()] == [(3, 6, 1, 1, 1), (3,)]
        weight, bias = output.parameters()
        coarse = functional.conv3d(features[0], weight, bias)
        losses = [trainer.loss(logits, batch.labels), trainer.loss(coarse, batch.labels[..., ::2, ::2, ::2])]
    assert float(trainer.step([batch])) == pytest.approx(float(2 * losses[0] + losses[1]) / 3, abs=1e-5)
    assert all(parameter.grad is not None for parameter in trainer.outputs.parameters())


def test_a_coarse_label_is_that_of_the_voxel_in_its_middle() -> None:
    """Along axes that are not halved, and for a network of slices, nothing is left out."""
    labels = torch.arange(2 * 8 * 8 * 4).view(2, 1, 8, 8, 4)
    fine, middle, coarse = labels_by_level(labels, ((2, 2, 1), (2, 1, 2), (2, 2, 2)), 3)
    assert torch.equal(fine, labels)
    assert torch.equal(middle, labels[:, :, ::2, ::2])
    assert torch.equal(coarse, labels[:, :, ::4, ::2, ::2])
    assert [level.shape[2:] for level in labels_by_level(labels, ((2, 2), (2, 2)), 2)] == [(8, 8, 4), (4, 4, 4)]
    assert level_weights(3) == pytest.approx([4 / 7, 2 / 7, 1 / 7])


def test_the_whole_recipe_trains_resumes_and_serves_no_more_than_without_it(
    config: TrainingConfig, tmp_path: Path
) -> None:
    """The outputs of deep supervision stay in the run; a run that was stopped ends with the same checkpoint."""
    values = read_config(HEART, {"recipe": "nnunet"})
    fields = {**values.optimisation.model_dump(), "iterations": 4, "precision": "float32", "heads_decay": 0.0}
    recipe = config.model_copy(
        update={
            "architecture": DEEP,
            "augmentation": values.augmentation,
            "batch": config.batch.model_copy(update={"foreground": 1 / 3, "foreground_crops": "counted"}),
            "optimisation": OptimisationConfig.model_validate(fields),
            "validate_every": 4,
            "save_every": 2,
        }
    )
    whole = load_checkpoint(train(recipe, tmp_path / "whole", start_engine(recipe, "cpu")))
    assert whole.hypernetwork.weight_shapes == weight_shapes(DEEP)
    assert whole.manifest.training["augmentation"]["flip_axes"] == [0, 1, 2]

    stopped = Trainer(recipe, start_engine(recipe, "cpu"))
    scans = SpacingBatches(read_split(recipe.dataset, "train", 3), recipe)
    for iteration in (0, 1):
        stopped.step([scans[iteration]])
    (tmp_path / "stopped").mkdir()
    stopped.save(tmp_path / "stopped" / "state.pt")
    resumed = load_checkpoint(train(recipe, tmp_path / "stopped", start_engine(recipe, "cpu")))
    assert torch.equal(resumed.hypernetwork.bias, whole.hypernetwork.bias)


def test_a_third_of_every_batch_lies_around_a_label(config: TrainingConfig, scans: list[LabelledScan]) -> None:
    """Of three crops exactly one; of one crop that in a third of the batches; and of rare labels as often."""
    rare = torch.zeros(20, 20, 20, dtype=torch.uint8)
    rare[0, 0, :12], rare[19, 19, 19] = 1, 2
    scan = replace(scans[0], image=torch.randn(20, 20, 20), labels=rare, spacing_ras_mm=(1.0, 1.0, 1.0))

    def found(crops: int, batches: int) -> list[list[int]]:
        bounds = {"min_scans": crops, "max_scans": crops, "max_patch": (2, 2, 2), "foreground": 1 / 3}
        batch = config.batch.model_copy(update={**bounds, "foreground_crops": "counted"})
        fixed = {"augmentation": STILL, "batch": batch, "trained_range_mm": ((1, 1), (1, 1), (1, 1))}
        drawn = SpacingBatches([scan] * crops, config.model_copy(update=fixed))
        return [[int(labels.max()) for labels in drawn[item].labels] for item in range(batches)]

    three = found(3, 10)
    assert all(batch[:2] == [0, 0] and batch[2] > 0 for batch in three)
    one = [batch[0] for batch in found(1, 200)]
    assert sum(label > 0 for label in one) / 200 == pytest.approx(1 / 3, abs=0.1)
    assert sum(label == 2 for label in one) / sum(label > 0 for label in one) == pytest.approx(0.5, abs=0.2)


def test_a_fifth_is_turned_and_a_fifth_is_scaled() -> None:
    """Lengths tell the scaling, 0.7 to 1.42; angles between the axes and themselves the turning, up to 30 degrees."""
    recipe = AugmentationConfig.model_validate(read_config(HEART, {"recipe": "nnunet"}).augmentation.model_dump())
    spacing, centre = (1.0, 1.0, 1.0), torch.zeros(3)
    turned, scales = 0, []
    for seed in range(300):
        generator = torch.Generator().manual_seed(seed)
        positions = random_positions_mm((2, 2, 2), spacing, centre, recipe, generator)
        steps = torch.stack([positions[1, 0, 0], positions[0, 1, 0], positions[0, 0, 1]]) - positions[0, 0, 0]
        scales.append(float(steps.norm(dim=1).prod()) ** (1 / 3))
        turned += int(float((steps.abs() - torch.diag(steps.diag().abs())).abs().max()) > 1e-4)
    scaled = [scale for scale in scales if abs(scale - 1) > 1e-4]
    assert turned / 300 == pytest.approx(0.2, abs=0.07)
    assert len(scaled) / 300 == pytest.approx(0.2, abs=0.07)
    assert all(0.7 < scale < 1.42 for scale in scaled)


def test_intensities_depend_on_image_and_generator_alone(scans: list[LabelledScan]) -> None:
    image = scans[0].image
    results = []
    for disturbance in (1, 2):
        torch.manual_seed(disturbance)
        nnunet_intensity(image, torch.Generator().manual_seed(disturbance))  # which must leave nothing behind
        generator = torch.Generator().manual_seed(7)
        results.append(torch.stack([nnunet_intensity(image, generator) for _ in range(6)]))
    assert torch.equal(results[0], results[1])
    assert type(results[0]) is torch.Tensor
    assert nnunet_intensity(image[:, :, :1], torch.Generator().manual_seed(0)).shape == (*image.shape[:2], 1)


def test_as_many_scans_as_in_nnunet_keep_their_intensities() -> None:
    """A third: none of seven changes happens to them."""
    image, generator = torch.randn(6, 6, 6), torch.Generator().manual_seed(0)
    kept = sum(torch.equal(nnunet_intensity(image, generator), image) for _ in range(300))
    assert kept / 300 == pytest.approx(0.9 * 0.9 * 0.85 * 0.85 * 0.875 * 0.9 * 0.7, abs=0.08)
