"""The checkpoints that ship: small enough, honest about themselves, and good on scans that they never saw."""

import os
from pathlib import Path

import pytest

from tests.fixtures.project import PROJECT
from unet_factory.domain.spacing import SnappedSpacing
from unet_factory.model.checkpoint import Checkpoint, load_checkpoint
from unet_factory.platform.manifest_file import read_manifest
from unet_factory_training.config import TrainingConfig, read_config
from unet_factory_training.dataset_config import DatasetConfig
from unet_factory_training.datasets import LabelledScan, Subject, find_subjects, read_scan
from unet_factory_training.dice_picture import rows_of as expected_rows
from unet_factory_training.evaluation import mean_dice, score_scan, score_scans
from unet_factory_training.seen_scans import rows_of

MODEL = PROJECT / "models" / "hippocampus-mr.safetensors"
CONFIG = PROJECT / "configs" / "hippocampus-mr.yaml"
EXAMPLES = PROJECT / "examples" / "hippocampus"

SHIPPED = sorted((PROJECT / "models").glob("*.safetensors"))

needs_data = pytest.mark.skipif(
    "UNET_FACTORY_DATA" not in os.environ, reason="needs UNET_FACTORY_DATA, the folder of data sets"
)

NATIVE = SnappedSpacing(1000, 1000, 1000)
COARSE = SnappedSpacing(3000, 3000, 3000)


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return load_checkpoint(MODEL)


@pytest.fixture(scope="module")
def config() -> TrainingConfig:
    return read_config(CONFIG)


@pytest.fixture(scope="module")
def examples() -> list[LabelledScan]:
    data = DatasetConfig(root=str(EXAMPLES))
    images = sorted((EXAMPLES / "images").glob("*.nii.gz"))
    return [read_scan(Subject(path.name, path, EXAMPLES / "labels" / path.name), data) for path in images]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_model_is_small_and_made_from_its_configuration(path: Path) -> None:
    manifest, made_from = read_manifest(path), read_config(PROJECT / "configs" / f"{path.stem}.yaml")
    assert path.stat().st_size < 25e6
    assert manifest.architecture == made_from.architecture
    assert manifest.grid == made_from.grid
    assert manifest.labels == made_from.labels
    assert manifest.window_mm == made_from.window_mm


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_card_shows_the_figures_of_the_manifest(path: Path) -> None:
    manifest = read_manifest(path)
    card = (PROJECT / manifest.card).read_text()
    assert len(manifest.metrics) > 5
    for figure in manifest.metrics:
        values = (*figure["dice"].values(), figure["dice_mean"], figure["dice_std"])
        assert f"| {figure['region']} | {' | '.join(f'{value:.3f}' for value in values)} |" in card


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_card_shows_what_the_model_saw(path: Path) -> None:
    manifest = read_manifest(path)
    assert manifest.seen is not None
    assert set(manifest.seen.volumes_ml) == {label.name for label in manifest.labels if label.value}
    card = (PROJECT / manifest.card).read_text()
    for row in rows_of(manifest.seen):
        assert f"| {' | '.join(row)} |" in card


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_card_shows_the_dice_that_the_manifest_expects(path: Path) -> None:
    manifest, config = read_manifest(path), read_config(PROJECT / "configs" / f"{path.stem}.yaml")
    assert manifest.dice_by_spacing is not None
    card = PROJECT / manifest.card
    assert card.with_suffix(".dice.png").is_file()
    for row in expected_rows(manifest.dice_by_spacing, config.report_at_mm):
        assert f"| {' | '.join(row)} |" in card.read_text()


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_overview_of_results_has_the_figures_of_the_manifest(path: Path) -> None:
    found = {figure["region"]: f"{figure['dice_mean']:.3f}".removeprefix("0") for figure in read_manifest(path).metrics}
    lines = (PROJECT / "docs" / "results.md").read_text().partition("<!-- /by hand -->")[0].splitlines()
    rows = [line.split(" | ") for line in lines if line.startswith((f"| {path.stem}, ", f"| [{path.stem}]"))]
    shown = {row[0].partition(", ")[2]: row[2] for row in rows}
    measured = {region: figure for region, figure in shown.items() if region in found}
    assert measured
    assert measured.items() <= found.items()


@needs_data
def test_the_heart_is_found_in_unseen_patients_at_their_own_spacings() -> None:
    """One frame of each of four test patients; the card has the figures for all of them."""
    heart = read_config(PROJECT / "configs" / "heart-mr.yaml")
    checkpoint = load_checkpoint(PROJECT / "models" / "heart-mr.safetensors")
    scans = [read_scan(subject, heart.dataset) for subject in find_subjects(heart.dataset, "test")[:8:2]]
    assert len({scan.spacing_ras_mm for scan in scans}) > 1
    scores = score_scans(checkpoint.hypernetwork, checkpoint.manifest, scans, [None], "bfloat16")
    assert mean_dice(scores) > 0.87


def test_examples_are_segmented_well_at_every_spacing(checkpoint: Checkpoint, examples: list[LabelledScan]) -> None:
    assert len(examples) >= 3
    for spacing, least in ((NATIVE, 0.85), (SnappedSpacing(1000, 1000, 3000), 0.82), (COARSE, 0.78)):
        scores = score_scans(checkpoint.hypernetwork, checkpoint.manifest, examples, [spacing])
        assert mean_dice(scores) > least, spacing


def test_the_spacing_matters(checkpoint: Checkpoint, examples: list[LabelledScan]) -> None:
    """A network made for another spacing does worse: the weights do depend on what they are made for."""
    mistaken = load_checkpoint(MODEL).hypernetwork
    mistaken.generate = lambda *_: checkpoint.hypernetwork.generate(COARSE)  # type: ignore[method-assign]
    right = mean_dice(score_scans(checkpoint.hypernetwork, checkpoint.manifest, examples, [NATIVE]))
    assert mean_dice(score_scans(mistaken, checkpoint.manifest, examples, [NATIVE])) < right - 0.1


def test_a_scan_can_be_scored_as_segmented_at_a_spacing_that_is_even_within_the_slice(
    checkpoint: Checkpoint, examples: list[LabelledScan]
) -> None:
    uneven, cube = SnappedSpacing(1000, 3000, 2000), SnappedSpacing(2000, 2000, 2000)
    scan, side_mm = examples[0], 3**0.5
    as_asked = score_scan(checkpoint, checkpoint.manifest, scan, uneven.mm, working_mm=(side_mm, side_mm, 2.0))
    there, evenly = (
        score_scans(checkpoint, checkpoint.manifest, [scan], [uneven], even=even) for even in (False, True)
    )
    assert evenly == [as_asked] != there
    assert score_scans(checkpoint, checkpoint.manifest, [scan], [cube], even=True) == score_scans(
        checkpoint, checkpoint.manifest, [scan], [cube]
    )


@needs_data
def test_the_manifest_tells_the_truth(checkpoint: Checkpoint, config: TrainingConfig) -> None:
    claimed = {figure["region"]: figure["dice_mean"] for figure in checkpoint.manifest.metrics}
    scans = [read_scan(subject, config.dataset) for subject in find_subjects(config.dataset, "test")]
    for region, spacing in ((f"{NATIVE} mm", NATIVE), (f"{COARSE} mm", COARSE)):
        scores = score_scans(checkpoint.hypernetwork, checkpoint.manifest, scans, [spacing])
        assert mean_dice(scores) == pytest.approx(claimed[region], abs=0.002)
