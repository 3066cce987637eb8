"""What a job costs on one kind of worker with one checkpoint: a physical form, fitted to jobs that were measured.

Each stage's time, and the peak memory, is a sum of terms such as "per window" or "per voxel of the scan", with
coefficients that are never negative: more work never costs less. They are found by least squares on the relative
error, so that a job of 50 ms counts as much as one of 50 s.
"""

import math
import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple, Self

from pydantic import Field

from unet_factory.domain.frozen import Frozen
from unet_factory.domain.nonnegative_fit import fit_nonnegative
from unet_factory.domain.workload import Workload

ENOUGH_OBSERVATIONS = 3  # fewer say nothing of a slope

_FORGETTING = 0.98  # weight of each measurement relative to the next newer one
_KEPT_SHARE, _SIGMAS_OF_KEPT_SHARE = 0.95, 1.645
_SIGMA_PER_DEVIATION = 1.4826  # of a normal distribution, from its median absolute deviation
_FEW, _SPREAD_OF_FEW, _LEAST_SPREAD = 20, 1.3, 1.05
_JUDGED = 40
_RECENT = 7
_LARGEST_DRIFT = 3.0

Terms = Callable[[Workload], tuple[float, ...]]


class Observation(Frozen):
    """What one finished job took. ``read_s``: fetching and reading the scan; ``weights_s``: making the network, None
    where it was ready; ``write_s``: writing what the caller gets; ``peak_bytes``: as the job's own field.
    """

    work: Workload
    read_s: float = Field(ge=0)
    weights_s: float | None = Field(default=None, ge=0)
    infer_s: float = Field(ge=0)
    write_s: float = Field(ge=0)
    peak_bytes: int = Field(ge=0)

    @property
    def seconds(self) -> float:
        return self.read_s + (self.weights_s or 0.0) + self.infer_s + self.write_s


class Price(NamedTuple):
    """``seconds_high`` and ``peak_bytes_high`` are kept by 95 of 100 jobs, the plain figures by about half."""

    seconds: float
    seconds_high: float
    peak_bytes: int
    peak_bytes_high: int


def _file_terms(work: Workload) -> tuple[float, ...]:
    return 1.0, work.input_voxels, float(work.dicom), work.dicom * work.input_voxels


def _weights_terms(_: Workload) -> tuple[float, ...]:
    return (1.0,)


def _inference_terms(work: Workload) -> tuple[float, ...]:
    return (
        1.0,
        work.windows,
        work.windows * work.window_voxels,
        work.windows * work.window_multiplications,
        work.working_voxels * work.classes,
        work.input_voxels,
        work.resampled * work.input_voxels * work.classes,
    )


def _memory_terms(work: Workload) -> tuple[float, ...]:
    return (
        1.0,
        work.input_voxels,
        work.working_voxels * work.classes,
        work.activations,
        work.resampled * work.input_voxels,
        work.dicom * work.input_voxels,
    )


class Fit(NamedTuple):
    """A sum of terms with fitted coefficients."""

    terms: Terms
    coefficients: tuple[float, ...]

    def __call__(self, work: Workload) -> float:
        return math.fsum(c * term for c, term in zip(self.coefficients, self.terms(work), strict=True))

    @classmethod
    def to(cls, terms: Terms, measured: Sequence[tuple[Workload, float]]) -> Self:
        """``measured`` has the newest first; older ones count less. Nothing measured gives zero everywhere."""
        rows = [(terms(work), value, _FORGETTING**age) for age, (work, value) in enumerate(measured) if value > 0]
        if not rows:
            return cls(terms, tuple(0.0 for _ in terms(measured[0][0])) if measured else ())
        return cls(
            terms,
            fit_nonnegative(
                [[term / value for term in row] for row, value, _ in rows], [weight for *_, weight in rows]
            ),
        )


class CostModel(NamedTuple):
    """Predicts the price of work for one kind of worker and one checkpoint."""

    read: Fit
    weights: Fit
    infer: Fit
    write: Fit
    memory: Fit
    drift: float
    time_spread: float
    memory_spread: float
    observations: int

    @classmethod
    def fit(cls, observations: Sequence[Observation]) -> "CostModel | None":
        """From measurements, the newest first; None where there are too few to say anything."""
        if len(observations) < ENOUGH_OBSERVATIONS:
            return None
        made = [(seen.work, seen.weights_s) for seen in observations if seen.weights_s is not None]
        model = cls(
            read=Fit.to(_file_terms, [(seen.work, seen.read_s) for seen in observations]),
            weights=Fit.to(_weights_terms, made or [(observations[0].work, 0.0)]),
            infer=Fit.to(_inference_terms, [(seen.work, seen.infer_s) for seen in observations]),
            write=Fit.to(_file_terms, [(seen.work, seen.write_s) for seen in observations]),
            memory=Fit.to(_memory_terms, [(seen.work, float(seen.peak_bytes)) for seen in observations]),
            drift=1.0,
            time_spread=1.0,
            memory_spread=1.0,
            observations=len(observations),
        )
        times = [seen.seconds / max(model._seconds_of(seen), 1e-9) for seen in observations]
        drift = min(max(statistics.median(times[:_RECENT]), 1 / _LARGEST_DRIFT), _LARGEST_DRIFT)
        memories = [seen.peak_bytes / max(model.memory(seen.work), 1.0) for seen in observations]
        return model._replace(
            drift=drift, time_spread=_spread([time / drift for time in times]), memory_spread=_spread(memories)
        )

    def price(self, work: Workload, read_s: float | None = None) -> Price:
        """Of work whose network has to be made first.

        Args:
            read_s: how long fetching and reading the scan took, where that is known already.
        """
        ahead_s = self.drift * (self.weights(work) + self.infer(work) + self.write(work))
        known_s = 0.0 if read_s is None else read_s
        if read_s is None:
            ahead_s += self.drift * self.read(work)
        peak_bytes = self.memory(work)
        return Price(
            seconds=known_s + ahead_s,
            seconds_high=known_s + ahead_s * self.time_spread,
            peak_bytes=math.ceil(peak_bytes),
            peak_bytes_high=math.ceil(peak_bytes * self.memory_spread),
        )

    def _seconds_of(self, seen: Observation) -> float:
        made = 0.0 if seen.weights_s is None else self.weights(seen.work)
        return self.read(seen.work) + made + self.infer(seen.work) + self.write(seen.work)


def _spread(ratios: Sequence[float]) -> float:
    """The factor above the prediction within which 95 of 100 measurements stay.

    Of a few measurements it is estimated from how far the middle half strays, so that one which something else slowed
    down does not decide.
    """
    newest = sorted(ratios[:_JUDGED])
    if len(newest) >= _FEW:
        return max(newest[math.ceil(_KEPT_SHARE * len(newest)) - 1], _LEAST_SPREAD)
    logs = [math.log(max(ratio, 1e-6)) for ratio in newest]
    middle = statistics.median(logs)
    sigma = _SIGMA_PER_DEVIATION * statistics.median(abs(value - middle) for value in logs)
    return max(math.exp(middle + _SIGMAS_OF_KEPT_SHARE * sigma), _SPREAD_OF_FEW)
