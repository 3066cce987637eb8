"""From the Dice of validation scans at many spacings to a smooth curve with an interval, for the manifest."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares
from scipy.stats import t as student_t

from unet_factory.domain.dice_by_spacing import AXIS_PAIRS, DiceBySpacing, polynomial_terms
from unet_factory.domain.spacing import SpacingMm
from unet_factory_training.evaluation import Score

LEAST_SPACINGS = 40
"""Fewer do not tell how Dice depends on three edges."""

COVERAGE = 0.9
_LEAST_ERROR = 1e-4  # 1 - Dice of a perfect result, which has no logarithm
_USUAL_RESIDUAL = 0.05  # of log(1 - Dice); far larger ones count by their size, not by its square
_DECIMALS = 5

_Array = NDArray[np.float64]


@dataclass(frozen=True)
class Measurements:
    """``dice`` (spacings, scans): mean over labels, NaN where a scan has none; ``patients``: one name for each scan."""

    spacings_mm: tuple[SpacingMm, ...]
    dice: _Array
    patients: tuple[str, ...]

    @classmethod
    def of(cls, scores: Sequence[Score], patients: Mapping[str, str]) -> "Measurements":
        """The spacings that every scan was scored at.

        Args:
            patients: scan name -> patient.
        """
        by_spacing: dict[SpacingMm, dict[str, float]] = defaultdict(dict)
        for score in scores:
            present = [value for value in score.dice if not math.isnan(value)]
            by_spacing[score.spacing_mm][score.scan] = sum(present) / len(present) if present else math.nan
        whole = {spacing: found for spacing, found in by_spacing.items() if found.keys() == patients.keys()}
        dice = np.array([[found[scan] for scan in patients] for found in whole.values()])
        return cls(tuple(whole), dice.reshape(len(whole), len(patients)), tuple(patients.values()))

    @property
    def means(self) -> _Array:
        """Over scans, for each spacing."""
        means: _Array = np.nanmean(self.dice, axis=1)
        return means


def fit_dice(measured: Measurements) -> DiceBySpacing | None:
    """The form that predicts left-out spacings best, fitted to all; None where there are too few spacings.

    Its interval takes the spread of scans around the mean as alike at all spacings, in the logarithm of 1 - Dice, and
    patients as independent: Student's prediction interval with one degree of freedom less than there are patients.
    """
    if len(measured.spacings_mm) < LEAST_SPACINGS:
        return None
    terms = np.array([polynomial_terms(spacing) for spacing in measured.spacings_mm])
    target = _log_error(measured.means)
    fits = {name: _Fit.of(terms @ form, target) for name, form in _forms().items()}
    name = min(fits, key=lambda name: fits[name].left_out_error)
    constant, *others = (_forms()[name] @ fits[name].coefficients).round(_DECIMALS).tolist()
    edges = np.array(measured.spacings_mm).T
    r, a, s = ((float(edge.min()), float(edge.max())) for edge in edges)
    return DiceBySpacing(
        scans=len(measured.patients),
        patients=len(set(measured.patients)),
        spacings=len(measured.spacings_mm),
        form=name,
        measured_mm=(r, a, s),
        constant=constant,
        linear=tuple(others[:3]),
        quadratic=tuple(others[3:]),
        error_factor=round(_error_factor(measured), 3),
        fit_error=round(fits[name].left_out_error, 4),
    )


@dataclass(frozen=True)
class _Fit:
    """``left_out_error``: root mean square, in Dice, of the prediction for each point from all others."""

    coefficients: _Array
    left_out_error: float

    @classmethod
    def of(cls, design: _Array, target: _Array) -> "_Fit":
        kept = ~np.eye(len(target), dtype=bool)
        left_out = [row @ _robust(design[others], target[others]) for row, others in zip(design, kept, strict=True)]
        error = np.exp(left_out) - np.exp(target)
        return cls(_robust(design, target), float(np.sqrt(np.mean(error**2))))


def _robust(design: _Array, target: _Array) -> _Array:
    """Least squares in which a spacing where one scan failed does not bend the curve."""

    def residuals(coefficients: _Array) -> _Array:
        return design @ coefficients - target

    def slopes(_: _Array) -> _Array:
        return design

    start = np.linalg.pinv(design) @ target
    found: _Array = least_squares(residuals, start, slopes, loss="soft_l1", f_scale=_USUAL_RESIDUAL).x
    return found


def _forms() -> dict[str, _Array]:
    """Simplest first: (10, parameters), by which a form's parameters give the polynomial's coefficients."""
    unit = np.eye(10)
    constant, r, a, s = unit[:4]
    squares = {pair: unit[4 + index] for index, pair in enumerate(AXIS_PAIRS)}
    size = (r + a + s) / 3
    size_squared = sum((1 if i == j else 2) * square for (i, j), square in squares.items()) / 9
    anisotropy = sum(squares[i, i] for i in range(3)) / 3 - size_squared  # the variance of the three logarithms
    own_squares = [squares[i, i] for i in range(3)]
    return {
        name: np.stack(columns, axis=1)
        for name, columns in {
            "constant": [constant],
            "voxel size": [constant, size, size_squared],
            "voxel size and anisotropy": [constant, size, size_squared, anisotropy],
            "each axis": [constant, r, a, s, *own_squares],
            "each axis and pairs": list(unit),
        }.items()
    }


def _error_factor(measured: Measurements) -> float:
    patients = len(set(measured.patients))
    if patients < 2:
        return 1 / _LEAST_ERROR  # one patient says nothing of the next
    deviations = _log_error(measured.dice) - _log_error(measured.means)[:, None]
    spread = float(np.sqrt(np.nanmean(deviations**2) * patients / (patients - 1)))
    quantile = float(student_t.ppf((1 + COVERAGE) / 2, patients - 1))
    return min(math.exp(quantile * spread * math.sqrt(1 + 1 / patients)), 1 / _LEAST_ERROR)


def _log_error(dice: _Array) -> _Array:
    log_error: _Array = np.log(np.maximum(1 - dice, _LEAST_ERROR))
    return log_error
