"""The expected Dice of a model card: a picture of the curve with what it was fitted to, and a table."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from unet_factory.domain.dice_by_spacing import DiceBySpacing
from unet_factory.domain.spacing import SpacingMm
from unet_factory_training.dice_fit import COVERAGE, Measurements
from unet_factory_training.model_card import fill_marked

CARD_MARK = "expected dice"
_DPI = 100


def fill_expected_dice(
    card: Path, measured: Measurements, fitted: DiceBySpacing, reported_mm: Sequence[SpacingMm]
) -> None:
    """Draw ``CARD.dice.png`` beside the card, and put it and a table for ``reported_mm`` into the card.

    Raises:
        ValueError: the card lacks the marks.
    """
    picture = card.with_suffix(".dice.png")
    told = (
        f"Fitted to {fitted.spacings} spacings (form: {fitted.form}) on {fitted.scans} {fitted.split} scans of "
        f"{fitted.patients} patients; a spacing left out of the fit is predicted to within {fitted.fit_error:.3f} "
        "(root mean square)."
    )
    below = f"{textwrap.fill(told, 120)}\n\n![Expected Dice against voxel size]({picture.name})"
    fill_marked(card, CARD_MARK, rows_of(fitted, reported_mm), below)
    draw(picture, measured, fitted)


def rows_of(fitted: DiceBySpacing, reported_mm: Sequence[SpacingMm]) -> list[list[str]]:
    """Spacing, expected Dice and interval, as a table's rows; the first is its heading."""
    heading = ["spacing (R,A,S) mm", "expected Dice", f"{COVERAGE:.0%} of scans"]
    expected = [(spacing_mm, fitted.expected_dice(spacing_mm)) for spacing_mm in reported_mm]
    return [
        heading,
        *(
            [",".join(f"{mm:g}" for mm in spacing_mm), f"{at.dice:.3f}", f"{at.low:.3f} to {at.high:.3f}"]
            for spacing_mm, at in expected
        ),
    ]


def draw(path: Path, measured: Measurements, fitted: DiceBySpacing) -> None:
    """The curve from the finest to the coarsest voxel, all edges growing in proportion, and every measured spacing."""
    mpl.use("agg")
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    panel = figure.subplots()
    finest, coarsest = np.array(fitted.measured_mm).T
    path_mm = [finest * (coarsest / finest) ** share for share in np.linspace(0, 1, 60)]
    along = [fitted.expected_dice((float(r), float(a), float(s))) for r, a, s in path_mm]
    sizes = [float(np.prod(edges)) ** (1 / 3) for edges in path_mm]
    panel.fill_between(
        sizes, [at.low for at in along], [at.high for at in along], alpha=0.15, label=f"{COVERAGE:.0%} of scans"
    )
    panel.plot(sizes, [at.dice for at in along], label="expected, finest to coarsest")
    edges_mm = np.array(measured.spacings_mm)
    dots = panel.scatter(
        edges_mm.prod(axis=1) ** (1 / 3),
        measured.means,
        c=edges_mm.max(axis=1) / edges_mm.min(axis=1),
        s=18,
        cmap="viridis",
        label="measured, mean of the scans",
    )
    figure.colorbar(dots, label="longest edge / shortest")
    panel.set_xscale("log")
    panel.set_xticks(ticks := np.geomspace(min(sizes), max(sizes), 6), [f"{mm:.2g}" for mm in ticks])
    panel.set_xticks([], minor=True)
    panel.set_ylim(max(0.0, min(min(measured.means), min(at.low for at in along)) - 0.02), 1)
    panel.set(xlabel="voxel size (mm, geometric mean of the edges)", ylabel="Dice")
    panel.legend(loc="lower left", fontsize=8)
    figure.savefig(path, dpi=_DPI, metadata={"Software": None})
