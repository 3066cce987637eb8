"""What so many subjects allow to say: means with bootstrap intervals, paired tests, corrected for their number."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap, wilcoxon
from statsmodels.stats.multitest import multipletests

RESAMPLES = 9999
CONFIDENCE = 0.95
_SEED = 2024


@dataclass(frozen=True)
class Estimate:
    """A mean over subjects with its bootstrap interval; NaN where there are too few to say."""

    mean: float
    low: float
    high: float


def mean_over_subjects(values: Sequence[float]) -> Estimate:
    """The mean and its 95% interval (bias-corrected and accelerated bootstrap over subjects); NaNs are left out."""
    known = _known(values)
    if not len(known):
        return Estimate(math.nan, math.nan, math.nan)
    mean = float(known.mean())
    if len(known) < 2:
        return Estimate(mean, math.nan, math.nan)
    if np.ptp(known) == 0:
        return Estimate(mean, mean, mean)
    interval = bootstrap(
        (known,), np.mean, n_resamples=RESAMPLES, confidence_level=CONFIDENCE, method="BCa", rng=_SEED
    ).confidence_interval
    return Estimate(mean, float(interval.low), float(interval.high))


def paired_p_value(differences: Sequence[float]) -> float:
    """Two-sided Wilcoxon signed-rank test of paired differences; NaN where none differs from zero."""
    known = _known(differences)
    return float(wilcoxon(known).pvalue) if np.any(known) else math.nan


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted so that the chance of any false finding among them stays below the level (Holm); NaNs stay apart."""
    values = np.asarray(p_values, dtype=float)
    adjusted = values.copy()
    tested = ~np.isnan(values)
    if tested.any():
        adjusted[tested] = multipletests(values[tested], method="holm")[1]
    return [float(value) for value in adjusted]


def _known(values: Sequence[float]) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    return array[~np.isnan(array)]
