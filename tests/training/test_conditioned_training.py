"""Training on more than the spacing: batches of one condition, simulated contrasts, and a hypernetwork that is told."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from unet_factory.domain.conditions import Condition
from unet_factory.domain.errors import DatasetInvalid
from unet_factory.domain.manifest import HypernetworkShape
from unet_factory.model.checkpoint import load_checkpoint
from unet_factory_training.batches import SpacingBatches
from unet_factory_training.config import TrainingConfig
from unet_factory_training.contrast import INVERSION_TIME, InversionRecovery, with_inversion_time
from unet_factory_training.datasets import LabelledScan, find_subjects
from unet_factory_training.engine import start_engine
from unet_factory_training.evaluation import segment_simulated, simulate
from unet_factory_training.loop import train
from unet_factory_training.trainer import Trainer

FIELD = Condition(name="field_strength_t", minimum=0.5, maximum=3, step=0.5, default=1.5)
TIME = Condition(name=INVERSION_TIME, minimum=400, maximum=1600, step=10, default=1600)
RECOVERY = InversionRecovery(inversion_time_ms=(400, 1600))


@pytest.fixture
def told(config: TrainingConfig) -> TrainingConfig:
    """Batches of simulated contrasts, and a hypernetwork that knows which."""
    optimisation = config.optimisation.model_copy(update={"iterations": 4})
    changes = {"conditions": (TIME,), "contrast": RECOVERY, "optimisation": optimisation, "validate_every": 4}
    return config.model_copy(update=changes)


def test_scans_of_a_batch_were_acquired_alike(scans: list[LabelledScan], config: TrainingConfig) -> None:
    strengths = [1.5, 1.5, 3.0, 3.0]
    measured = [replace(scan, conditions={FIELD.name: tesla}) for scan, tesla in zip(scans, strengths, strict=True)]
    of_name = {scan.name: scan.conditions[FIELD.name] for scan in measured}
    batches = SpacingBatches(measured, config.model_copy(update={"conditions": (FIELD,)}))
    found = set()
    for number in range(20):
        batch = batches[number]
        assert {of_name[name] for name in batch.names} == set(batch.conditions)
        found.add(batch.conditions)
    assert found == {(1.5,), (3.0,)}


def test_a_scan_that_does_not_tell_is_named(scans: list[LabelledScan], config: TrainingConfig) -> None:
    batches = SpacingBatches(scans, config.model_copy(update={"conditions": (FIELD,)}))
    with pytest.raises(DatasetInvalid, match=r"train_0: there is no value for field_strength_t"):
        batches[0]


def test_the_data_set_tells_by_scan(config: TrainingConfig, dataset_root: Path) -> None:
    path = dataset_root / "conditions.json"
    path.write_text(json.dumps({"train_1": {FIELD.name: 3}}))
    dataset = config.dataset.model_copy(update={"conditions": path.name})
    found = {subject.name: dict(subject.conditions) for subject in find_subjects(dataset, "train")}
    assert found == {"train_0": {}, "train_1": {FIELD.name: 3.0}, "train_2": {}, "train_3": {}}
    path.write_text(json.dumps({"train_1": {FIELD.name: "strong"}}))
    with pytest.raises(DatasetInvalid, match=r"train_1\.field_strength_t"):
        find_subjects(dataset, "train")


def test_without_conditions_batches_are_what_they_were(scans: list[LabelledScan], config: TrainingConfig) -> None:
    """What scans tell is no matter to a model that is not told: not even the draws change."""
    measured = [replace(scan, conditions={FIELD.name: float(number)}) for number, scan in enumerate(scans)]
    plain, with_more = SpacingBatches(scans, config)[3], SpacingBatches(measured, config)[3]
    assert torch.equal(plain.images, with_more.images)
    assert with_more.conditions == ()


@pytest.mark.parametrize("inversion_time_ms", [600.0, 900.0, 1500.0])
def test_the_tissue_whose_magnetisation_passes_zero_is_darkest(inversion_time_ms: float) -> None:
    """Signal vanishes where TI = T1 ln 2, rises to both sides, and is the field's formula in between."""
    ramp = torch.linspace(0, 1, 101)[:, None, None].expand(101, 2, 2)
    scan = LabelledScan("ramp", ramp, torch.zeros(101, 2, 2, dtype=torch.uint8), (1, 1, 1))
    seen = with_inversion_time(scan, inversion_time_ms)
    signal = seen.image[:, 0, 0]
    brightness = ((ramp[:, 0, 0] - 0.01) / 0.98).clamp(0, 1).double()
    t1_ms = 1 / (1 / 4000 + brightness * (1 / 830 - 1 / 4000))
    expected = (1 - 2 * torch.exp(-inversion_time_ms / t1_ms)).abs()
    assert torch.corrcoef(torch.stack([signal.double(), expected]))[0, 1] > 0.99999
    darkest = float(t1_ms[signal.argmin()])
    assert darkest == pytest.approx(max(830, inversion_time_ms / math.log(2)), rel=0.03)
    assert seen.conditions == {INVERSION_TIME: inversion_time_ms}
    assert float(seen.image.mean()) == pytest.approx(0, abs=1e-5)


def test_simulated_batches_are_told_what_they_show(scans: list[LabelledScan], told: TrainingConfig) -> None:
    untold = told.model_copy(update={"conditions": ()})
    found = set()
    for number in range(8):
        one, other = SpacingBatches(scans, told)[number], SpacingBatches(scans, untold)[number]
        assert torch.equal(one.images, other.images), "both arms of a comparison see the same batches"
        assert other.conditions == ()
        found |= set(one.conditions)
    assert len(found) > 5
    assert all(TIME.minimum <= value <= TIME.maximum for value in found)


def test_the_loss_reaches_what_is_told(scans: list[LabelledScan], told: TrainingConfig) -> None:
    wide = told.model_copy(update={"hypernetwork": HypernetworkShape(hidden=(16, 16))})
    trainer = Trainer(wide, start_engine(wide, "cpu"))
    trainer.step([SpacingBatches(scans, told)[0]])
    first = dict(trainer.hypernetwork.named_parameters())["hidden.0.weight"]
    assert first.shape[1] == 2 * (3 + 1)
    assert first.grad is not None
    assert float(first.grad[:, 6:].abs().sum()) > 0


def test_a_trained_checkpoint_is_told_by_the_scan(
    told: TrainingConfig, scans: list[LabelledScan], tmp_path: Path
) -> None:
    checkpoint = load_checkpoint(train(told, tmp_path, start_engine(told, "cpu")))
    assert checkpoint.manifest.conditions == (TIME,)
    with torch.no_grad():
        checkpoint.hypernetwork.heads.normal_(std=0.5)
    image = simulate(with_inversion_time(scans[0], 600), (1.0, 1.0, 1.2), 3)
    asked: list[object] = []
    generate = checkpoint.hypernetwork.generate
    checkpoint.hypernetwork.generate = lambda *given: asked.append(given[1]) or generate(*given)  # type: ignore[method-assign,func-returns-value]
    segment_simulated(checkpoint.hypernetwork, checkpoint.manifest, image)
    assert asked == [(600.0,)]
