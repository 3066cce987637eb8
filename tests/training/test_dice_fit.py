"""The curve of the expected Dice finds again what made the figures, and its interval holds the scans."""

from pathlib import Path

import numpy as np
import pytest

from unet_factory.domain.dice_by_spacing import AXIS_PAIRS
from unet_factory.domain.spacing import SpacingGrid, SpacingMm
from unet_factory.model.checkpoint import save_checkpoint
from unet_factory.model.hypernetwork import Hypernetwork
from unet_factory.platform.manifest_file import read_manifest
from unet_factory_training.config import TrainingConfig
from unet_factory_training.dice_fit import LEAST_SPACINGS, Measurements, fit_dice
from unet_factory_training.dice_picture import rows_of
from unet_factory_training.evaluation import Score, draw_spacings
from unet_factory_training.evaluation_report import publish
from unet_factory_training.loop import manifest_of
from unet_factory_training.training_role import run_evaluation

GRID = SpacingGrid.from_mm(0.05, ((0.5, 3.5), (0.5, 3.5), (1, 6)))
PATIENTS = {f"patient{number:02}_frame{frame}": f"patient{number:02}" for number in range(20) for frame in (1, 2)}


def made(forms: str, spread: float, seed: int, spacings: int = 60, patients: dict[str, str] = PATIENTS) -> Measurements:
    """Scores whose logarithmic error is a known polynomial, and differs between patients by ``spread``."""
    rng = np.random.default_rng(seed)
    of_patient = {name: rng.normal(0, spread) for name in dict.fromkeys(patients.values())}
    scores = [
        Score(scan, spacing.mm, (1 - float(np.exp(log_error(forms, spacing.mm) + of_patient[patient])),) * 2)
        for spacing in draw_spacings(GRID, spacings, seed)
        for scan, patient in patients.items()
    ]
    return Measurements.of(scores, patients)


def log_error(form: str, spacing_mm: SpacingMm) -> float:
    r, a, s = np.log(spacing_mm)
    size = (r + a + s) / 3
    return float(
        {
            "constant": -2.0,
            "voxel size": -2 - 0.1 * size + 0.4 * size**2,
            "voxel size and anisotropy": -2 + 0.1 * size**2 + 0.5 * np.var([r, a, s]),
            "each axis": -2 + 0.1 * r + 0.3 * s**2,
            "each axis and pairs": -2 + 0.1 * r + 0.3 * r * s - 0.2 * a * s,
        }[form]
    )


@pytest.mark.parametrize("form", ["voxel size", "voxel size and anisotropy", "each axis", "each axis and pairs"])
def test_a_known_dependence_is_found_again(form: str) -> None:
    fitted = fit_dice(made(form, spread=0, seed=1))
    assert fitted is not None
    assert fitted.fit_error < 1e-4
    assert fitted.error_factor == pytest.approx(1, abs=1e-3)
    assert (fitted.scans, fitted.patients, fitted.spacings) == (40, 20, 60)
    low, high = np.array(fitted.measured_mm).T
    for spacing in draw_spacings(GRID, 20, seed=2):
        r, a, s = np.clip(spacing.mm, low, high).tolist()
        assert fitted.expected_dice((r, a, s)).dice == pytest.approx(1 - np.exp(log_error(form, (r, a, s))), abs=2e-4)


def test_the_interval_holds_nine_new_patients_in_ten() -> None:
    """Of many fits to few patients, each judged by patients that it did not see: Student's interval is exact."""
    held = []
    for seed in range(20):
        few = {f"patient{number}": f"patient{number}" for number in range(6)}
        fitted = fit_dice(made("constant", 0.3, seed, spacings=LEAST_SPACINGS, patients=few))
        assert fitted is not None
        expected = fitted.expected_dice((1, 1, 1))
        new = 1 - np.exp(-2 + np.random.default_rng(1000 + seed).normal(0, 0.3, 200))
        held.append(np.mean((new >= expected.low) & (new <= expected.high)))
    assert 0.85 < np.mean(held) < 0.95


def test_too_few_spacings_give_no_curve() -> None:
    assert fit_dice(made("constant", 0.1, seed=0, spacings=LEAST_SPACINGS - 1)) is None


def test_absent_labels_and_perfect_scans_are_borne() -> None:
    nan = float("nan")
    scores = [
        Score(scan, spacing.mm, {0: (1.0, 1.0), 1: (nan, 0.8)}.get(index, (nan, nan)))
        for spacing in draw_spacings(GRID, LEAST_SPACINGS, 0)
        for index, scan in enumerate(("a", "b", "c"))
    ]
    fitted = fit_dice(Measurements.of(scores, {"a": "a", "b": "b", "c": "c"}))
    assert fitted is not None
    assert fitted.expected_dice((1, 1, 1)).dice == pytest.approx(0.9)


def test_only_spacings_of_all_scans_count() -> None:
    scores = [Score("a", (1, 1, 1), (0.5,)), Score("b", (1, 1, 1), (0.7,)), Score("a", (2, 2, 2), (0.1,))]
    measured = Measurements.of(scores, {"a": "a", "b": "b"})
    assert measured.spacings_mm == ((1, 1, 1),)
    assert measured.means == pytest.approx([0.6])


def test_evaluating_writes_it_to_checkpoint_and_card(config: TrainingConfig, tmp_path: Path) -> None:
    path, published, card = tmp_path / "a.safetensors", tmp_path / "b.safetensors", tmp_path / "card.md"
    report_at_mm = ((1.0, 1.0, 1.0), (2.0, 2.0, 3.0))
    config = config.model_copy(update={"trained_range_mm": ((2, 3.5),) * 3, "report_at_mm": report_at_mm})
    save_checkpoint(path, Hypernetwork(config.architecture, config.hypernetwork, config.grid), manifest_of(config))
    card.write_text("".join(f"<!-- {mark} -->\n<!-- /{mark} -->\n" for mark in ("figures", "expected dice")))
    written = tmp_path / "config.yaml"
    written.write_text(config.model_dump_json())
    run_evaluation(written, [path], draws=LEAST_SPACINGS, publish_to=published, card=card)
    fitted = read_manifest(published).dice_by_spacing
    assert fitted is not None
    assert (fitted.scans, fitted.patients, fitted.spacings) == (1, 1, LEAST_SPACINGS + len(report_at_mm))
    assert (tmp_path / "card.dice.png").read_bytes().startswith(b"\x89PNG")
    for row in rows_of(fitted, report_at_mm):
        assert f"| {' | '.join(row)} |" in card.read_text()
    assert "(card.dice.png)" in card.read_text()
    publish(published, [], config, tmp_path / "c.safetensors")
    assert read_manifest(tmp_path / "c.safetensors").dice_by_spacing == fitted
    assert len(fitted.quadratic) == len(AXIS_PAIRS)
