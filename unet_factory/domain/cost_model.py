"""What a job costs on one kind of worker with one checkpoint: a physical form, fitted to jobs that were measured.

Each stage's time, and the peak memory, is a sum of terms such as "per window" or "per voxel of the scan", with
coefficients that are never negative: more work never costs less. They are found by least squares on the relative
error, so that a job of 50 ms counts as much as one of 50 s.
"""

import math
import operator
import statistics
from collections.abc import Callable, Iterator, Sequence
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
_JUDGED, _REPLAYED = 24, 12
_ANCHOR_JOBS = 2.0  # as much as so many jobs count, calibration counts in all
_TINY = 1e-9
_FLOAT_BYTES, _LABEL_BYTES = 4, 1
_RECENT = 15
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

    @property
    def needed_bytes(self) -> int:
        """``peak_bytes``, where these are not fewer than the job must have held."""
        return max(self.peak_bytes, held_bytes(self.work))


class Price(NamedTuple):
    """``seconds_high`` and ``peak_bytes_high`` are kept by 95 of 100 jobs, the plain figures by about half."""

    seconds: float
    seconds_high: float
    peak_bytes: int
    peak_bytes_high: int

    def taking(self, times: float) -> "Price":
        """The same in so many times the seconds."""
        return self._replace(seconds=times * self.seconds, seconds_high=times * self.seconds_high)


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
        float(work.made),
    )


def held_bytes(work: Workload) -> int:
    """What a job holds at once whatever the model: scan and normalised copy in float32, and the label map in a byte.

    The memory of a worker wavers by a few MB, so what was measured of a job that needs less can be anything, also 0.
    """
    return (_FLOAT_BYTES + _LABEL_BYTES) * work.input_voxels + _FLOAT_BYTES * work.working_voxels


class Measured(NamedTuple):
    """What was measured of one quantity, and how much it counts."""

    work: Workload
    value: float
    weight: float


class Fit(NamedTuple):
    """A sum of terms with fitted coefficients."""

    terms: Terms
    coefficients: tuple[float, ...]

    def __call__(self, work: Workload) -> float:
        return math.fsum(map(operator.mul, self.coefficients, self.terms(work)))

    @classmethod
    def to(cls, terms: Terms, measured: Sequence[Measured]) -> Self:
        """Zero everywhere if nothing was measured but zeros."""
        rows = [([term / value for term in terms(work)], weight) for work, value, weight in measured if value > 0]
        if not rows:
            return cls(terms, ())
        return cls(terms, fit_nonnegative([row for row, _ in rows], [weight for _, weight in rows]))


class CostModel(NamedTuple):
    """Predicts the price of work for one kind of worker and one checkpoint.

    The drifts are by how much the last jobs took more than the fit says, as on a machine that became busier; the
    spreads are the factors within which 95 of 100 jobs stayed that were predicted before they ran.
    """

    read: Fit
    weights: Fit
    infer: Fit
    write: Fit
    memory: Fit
    observations: int
    time_drift: float = 1.0
    memory_drift: float = 1.0
    time_spread: float = 1.0
    memory_spread: float = 1.0

    @classmethod
    def fit(cls, jobs: Sequence[Observation], calibration: Sequence[Observation] = ()) -> "CostModel | None":
        """From finished jobs and from scans made for it, the newest first; None where there are too few of both."""
        model = _fitted(jobs, calibration)
        if model is None:
            return None
        ratios = list(_replayed(jobs, calibration)) or [model._ratios(seen) for seen in (*jobs, *calibration)]
        times, memories = zip(*ratios, strict=True)
        return model._replace(time_spread=_spread(times), memory_spread=_spread(memories))

    def price(self, work: Workload, read_s: float | None = None) -> Price:
        """Of work whose network has to be made first.

        Args:
            read_s: how long fetching and reading the scan took, where that is known already.
        """
        ahead_s = self.time_drift * (self.weights(work) + self.infer(work) + self.write(work))
        known_s = 0.0 if read_s is None else read_s
        if read_s is None:
            ahead_s += self.time_drift * self.read(work)
        peak_bytes = self._peak_bytes(work)
        return Price(
            seconds=known_s + ahead_s,
            seconds_high=known_s + ahead_s * self.time_spread,
            peak_bytes=math.ceil(peak_bytes),
            peak_bytes_high=math.ceil(peak_bytes * self.memory_spread),
        )

    def _ratios(self, seen: Observation) -> tuple[float, float]:
        """Time and memory of a job, each divided by its prediction."""
        work = seen.work
        made_s = 0.0 if seen.weights_s is None else self.weights(work)
        seconds = self.time_drift * (self.read(work) + made_s + self.infer(work) + self.write(work))
        return seen.seconds / max(seconds, _TINY), seen.needed_bytes / self._peak_bytes(work)

    def _peak_bytes(self, work: Workload) -> float:
        return max(self.memory_drift * self.memory(work), held_bytes(work))


def _fitted(jobs: Sequence[Observation], calibration: Sequence[Observation]) -> CostModel | None:
    """Without spreads. The more jobs there are, the less calibration counts: it only keeps the fit sound."""
    seen = (*jobs, *calibration)
    if len(seen) < ENOUGH_OBSERVATIONS:
        return None
    anchor = _ANCHOR_JOBS / (_ANCHOR_JOBS + len(jobs))
    weights = [_FORGETTING**age for age in range(len(jobs))] + [anchor] * len(calibration)

    def measured(of: Callable[[Observation], float | None]) -> list[Measured]:
        return [Measured(one.work, of(one) or 0.0, weight) for one, weight in zip(seen, weights, strict=True)]

    model = CostModel(
        read=Fit.to(_file_terms, measured(lambda one: one.read_s)),
        weights=Fit.to(_weights_terms, measured(lambda one: one.weights_s)),
        infer=Fit.to(_inference_terms, measured(lambda one: one.infer_s)),
        write=Fit.to(_file_terms, measured(lambda one: one.write_s)),
        memory=Fit.to(_memory_terms, measured(lambda one: one.needed_bytes)),
        observations=len(seen),
    )
    times, memories = zip(*(model._ratios(one) for one in seen[:_RECENT]), strict=True)
    return model._replace(time_drift=_drift(times), memory_drift=_drift(memories))


def _replayed(jobs: Sequence[Observation], calibration: Sequence[Observation]) -> Iterator[tuple[float, float]]:
    """The ratios of the newest jobs to what was predicted before they ran, a few of them at a time."""
    for start in range(0, min(len(jobs), _JUDGED), _REPLAYED):
        before = _fitted(jobs[start + _REPLAYED :], calibration)
        if before is None:
            return
        yield from map(before._ratios, jobs[start : start + _REPLAYED])


def _drift(ratios: Sequence[float]) -> float:
    return min(max(statistics.median(ratios), 1 / _LARGEST_DRIFT), _LARGEST_DRIFT)


def _spread(ratios: Sequence[float]) -> float:
    """The factor above the prediction within which 95 of 100 measurements stay.

    Of a few measurements it is estimated from how far the middle half strays, so that one which something else slowed
    down does not decide.
    """
    ordered = sorted(ratios)
    if len(ordered) >= _FEW:
        rank = math.ceil(_KEPT_SHARE * (len(ordered) + 1))  # what the next one stays within, not these (conformal)
        return max(ordered[min(rank, len(ordered)) - 1], _LEAST_SPREAD)
    logs = [math.log(max(ratio, _TINY)) for ratio in ordered]
    middle = statistics.median(logs)
    sigma = _SIGMA_PER_DEVIATION * statistics.median(abs(value - middle) for value in logs)
    return max(math.exp(middle + _SIGMAS_OF_KEPT_SHARE * sigma), _SPREAD_OF_FEW)
