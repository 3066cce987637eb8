"""What so many subjects allow to say: means with bootstrap intervals, paired tests, corrected for their number."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import bootstrap, wilcoxon
from statsmodels.stats.multitest import multipletests

RESAMPLES = 9999
CONFIDENCE = 0.95
_SEED = 2024


@dataclass(frozen=True)
class Estimate:
    """A mean with its bootstrap interval; NaN where there is too little to say."""

    mean: float
    low: float
    high: float


def mean_over_subjects(values: ArrayLike) -> Estimate:
    """The mean and its 95% interval over subjects; subjects with a NaN are left out.

    Args:
        values: (subjects,) or (subjects, trainings). Of one training the interval is the bias-corrected and accelerated
            bootstrap over subjects, and leaves out how trainings differ. Of several it is the percentile bootstrap that
            draws subjects and trainings anew, crossed: of few trainings it is still too narrow.
    """
    table = np.asarray(values, dtype=np.float64)
    if table.ndim == 1:
        table = table[:, np.newaxis]
    known = table[~np.isnan(table).any(axis=1)]
    if not known.size:
        return Estimate(math.nan, math.nan, math.nan)
    mean = float(known.mean())
    if len(known) < 2:
        return Estimate(mean, math.nan, math.nan)
    if np.ptp(known) == 0:
        return Estimate(mean, mean, mean)
    if known.shape[1] > 1:
        low, high = _crossed_interval(known)
        return Estimate(mean, low, high)
    interval = bootstrap(
        (known[:, 0],), np.mean, n_resamples=RESAMPLES, confidence_level=CONFIDENCE, method="BCa", rng=_SEED
    ).confidence_interval
    return Estimate(mean, float(interval.low), float(interval.high))


def _crossed_interval(table: NDArray[np.float64]) -> tuple[float, float]:
    """Percentiles of the mean of (subjects, trainings) when both are drawn with replacement."""
    rng = np.random.default_rng(_SEED)
    shares = [rng.multinomial(count, np.full(count, 1 / count), RESAMPLES) / count for count in table.shape]
    means = np.einsum("bs,st,bt->b", shares[0], table, shares[1], optimize=True)
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def far_out(values: Mapping[str, float]) -> list[str]:
    """Names of the values more than three interquartile ranges beyond the quartiles (Tukey's outer fences)."""
    known = {name: value for name, value in values.items() if not math.isnan(value)}
    if not known:
        return []
    lower, upper = np.quantile(list(known.values()), [0.25, 0.75])
    margin = 3 * (upper - lower)
    return sorted(name for name, value in known.items() if not lower - margin <= value <= upper + margin)


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
