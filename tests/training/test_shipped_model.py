"""The checkpoint that ships: small enough, honest about itself, and good on scans that it never saw."""

import os
from pathlib import Path

import pytest

from unet_factory.model.checkpoint import Checkpoint, load_checkpoint
from unet_factory.spacing import SnappedSpacing
from unet_factory_training.config import TrainingConfig, read_config
from unet_factory_training.dataset_config import DatasetConfig
from unet_factory_training.datasets import Scan, Subject, find_subjects, read_scan
from unet_factory_training.evaluation import mean_dice, score_scans

PROJECT = Path(__file__).parents[2]
MODEL = PROJECT / "models" / "hippocampus-mr.safetensors"
CONFIG = PROJECT / "configs" / "hippocampus-mr.yaml"
EXAMPLES = PROJECT / "examples" / "hippocampus"

NATIVE = SnappedSpacing(1000, 1000, 1000)
COARSE = SnappedSpacing(3000, 3000, 3000)


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return load_checkpoint(MODEL)


@pytest.fixture(scope="module")
def config() -> TrainingConfig:
    return read_config(CONFIG)


@pytest.fixture(scope="module")
def examples() -> list[Scan]:
    data = DatasetConfig(root=str(EXAMPLES))
    images = sorted((EXAMPLES / "images").glob("*.nii.gz"))
    return [read_scan(Subject(path.name, path, EXAMPLES / "labels" / path.name), data) for path in images]


def test_it_is_small_and_made_from_its_configuration(checkpoint: Checkpoint, config: TrainingConfig) -> None:
    assert MODEL.stat().st_size < 25e6
    assert checkpoint.manifest.architecture == config.architecture
    assert checkpoint.manifest.grid == config.grid
    assert checkpoint.manifest.labels == config.labels
    assert checkpoint.manifest.grid.range_mm == ((0.5, 3.5),) * 3
    assert (PROJECT / checkpoint.manifest.card).is_file()


def test_examples_are_segmented_well_at_every_spacing(checkpoint: Checkpoint, examples: list[Scan]) -> None:
    assert len(examples) >= 3
    for spacing, least in ((NATIVE, 0.85), (SnappedSpacing(1000, 1000, 3000), 0.82), (COARSE, 0.78)):
        scores = score_scans(checkpoint.hypernetwork, checkpoint.manifest, examples, [spacing])
        assert mean_dice(scores) > least, spacing


def test_the_spacing_matters(checkpoint: Checkpoint, examples: list[Scan]) -> None:
    """A network made for another spacing does worse: the weights do depend on what they are made for."""
    mistaken = load_checkpoint(MODEL).hypernetwork
    mistaken.generate = lambda _: checkpoint.hypernetwork.generate(COARSE)  # type: ignore[assignment]
    right = mean_dice(score_scans(checkpoint.hypernetwork, checkpoint.manifest, examples, [NATIVE]))
    assert mean_dice(score_scans(mistaken, checkpoint.manifest, examples, [NATIVE])) < right - 0.1


def test_the_card_shows_the_figures_of_the_manifest(checkpoint: Checkpoint) -> None:
    card = (PROJECT / checkpoint.manifest.card).read_text()
    assert len(checkpoint.manifest.metrics) > 10
    for figure in checkpoint.manifest.metrics:
        anterior, posterior = figure["dice"].values()
        values = (anterior, posterior, figure["dice_mean"], figure["dice_std"])
        assert f"| {figure['region']} | {' | '.join(f'{value:.3f}' for value in values)} |" in card


@pytest.mark.skipif("UNET_FACTORY_DATA" not in os.environ, reason="needs UNET_FACTORY_DATA, the folder of data sets")
def test_the_manifest_tells_the_truth(checkpoint: Checkpoint, config: TrainingConfig) -> None:
    claimed = {figure["region"]: figure["dice_mean"] for figure in checkpoint.manifest.metrics}
    scans = [read_scan(subject, config.dataset) for subject in find_subjects(config.dataset, "test")]
    for region, spacing in ((f"native {NATIVE} mm", NATIVE), (f"{COARSE} mm", COARSE)):
        scores = score_scans(checkpoint.hypernetwork, checkpoint.manifest, scans, [spacing])
        assert mean_dice(scores) == pytest.approx(claimed[region], abs=0.002)
