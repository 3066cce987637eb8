"""How well a quote tells what a job will take, and how often a budget is kept, through HTTP on a factory of its own.

Every scan has a shape and a spacing that no job before it had. The quote is asked just before the job, and the job then
refines the next quote, as it does in use; the models take turns. What else runs on the machine makes times stray: the
page names the machine, and its load belongs to the figures.
"""

import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import nibabel
import numpy as np

from benchmarks.models import HEART, HIPPOCAMPUS, SHIPPED
from benchmarks.rows import Bound, Row, area, at_least, at_most
from unet_factory_cli.demo_service import running_service
from unet_factory_client import FactoryClient, FactoryProblem, Job, Quote, SegmentationParameters

PAIRS = 60
PRACTICE = 12
TWICE = 8
BUDGETS = 60
CALIBRATED_WITHIN_S = 120.0

Shape = tuple[int, int, int]
Spacing = tuple[float, float, float]


class Ranges(NamedTuple):
    """From which shapes (voxels) and spacings (mm) are drawn, R, A, S."""

    voxels: tuple[tuple[int, int], ...]
    millimetres: tuple[tuple[float, float], ...]


RANGES = {
    HIPPOCAMPUS.stem: Ranges(((16, 56),) * 3, ((0.5, 2.5),) * 3),
    HEART.stem: Ranges(((48, 128), (48, 128), (6, 14)), ((1.0, 2.5), (1.0, 2.5), (5.0, 10.0))),
}


class Trial(NamedTuple):
    quote: Quote
    job: Job

    @property
    def seconds(self) -> float:
        return _seconds(self.job)

    @property
    def time_error(self) -> float:
        predicted = self.quote.options[0].seconds
        assert predicted is not None
        return abs(predicted - self.seconds) / self.seconds

    @property
    def memory_error(self) -> float:
        predicted, measured = self.quote.options[0].peak_bytes, self.job.peak_bytes
        assert predicted is not None
        assert measured
        return abs(predicted - measured) / measured


@area("quote", "Prices before they are paid")
def quote() -> Iterator[Row]:
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name, running_service(Path(name), SHIPPED.absolute()) as client:
        folder = Path(name)
        _await_figures(client)
        for _ in range(PRACTICE):
            for model in RANGES:
                _run(client, folder, model, random)
        trials: dict[str, list[Trial]] = {model: [] for model in RANGES}
        answered_ms: list[float] = []
        for _ in range(PAIRS):
            for model, done in trials.items():
                done.append(_run(client, folder, model, random))
                answered_ms.append(_answer_ms(client, done[-1]))
        repeated = {model: [_repeated(client, folder, model, random) for _ in range(TWICE)] for model in RANGES}
        outcomes = list(_budgets(client, folder, random))
    for model, done in trials.items():
        yield _error_row(f"error of the time, {model}", [trial.time_error for trial in done], at_most(15))
        yield _error_row(f"error of the time if the very same job ran just before, {model}", repeated[model])
        yield _error_row(f"error of the memory, {model}", [trial.memory_error for trial in done], at_most(10))
    kept = [outcome for outcome in outcomes if outcome is not None]
    yield Row(
        name=f"budgets kept, of {BUDGETS}",
        value=100 * statistics.fmean(kept),
        unit="%",
        aim=at_least(95),
        note=f"{len(outcomes) - len(kept)} more were refused before the scan was segmented",
    )
    yield Row(
        name="a quote through HTTP, right after a job",
        value=statistics.median(answered_ms),
        unit="ms",
        spread=_quartiles(answered_ms),
        aim=at_most(20),
    )


def _run(client: FactoryClient, folder: Path, model: str, random: np.random.Generator) -> Trial:
    shape, spacing = _pair(RANGES[model], random)
    answer = client.quote(shape, spacing, model=model)
    scan = _scan(folder, shape, spacing, random)
    job = client.wait(client.submit(scan, SegmentationParameters(model=model)).id)
    return Trial(answer, job)


def _repeated(client: FactoryClient, folder: Path, model: str, random: np.random.Generator) -> float:
    """By how much a job's time differs from its own time just before: what no prediction can do better than."""
    shape, spacing = _pair(RANGES[model], random)
    scan, wishes = _scan(folder, shape, spacing, random), SegmentationParameters(model=model)
    first, second = (client.wait(client.submit(scan, wishes).id) for _ in range(2))
    return abs(_seconds(first) - _seconds(second)) / _seconds(second)


def _budgets(client: FactoryClient, folder: Path, random: np.random.Generator) -> Iterator[bool | None]:
    """Until enough were not refused."""
    accepted = index = 0
    while accepted < BUDGETS:
        outcome = _budget_kept(client, folder, index, random)
        accepted, index = accepted + (outcome is not None), index + 1
        yield outcome


def _budget_kept(client: FactoryClient, folder: Path, index: int, random: np.random.Generator) -> bool | None:
    """Of a budget between what the coarsest and the finest spacing need, of seconds or of bytes; None: refused."""
    model = list(RANGES)[index % 2]
    shape, spacing = _pair(RANGES[model], random)
    options, share = client.quote(shape, spacing, model=model).options, random.uniform(0.1, 1.0)
    scan = _scan(folder, shape, spacing, random)
    if index % 4 < 2:
        needed_s = [option.seconds_high or 0.0 for option in options]
        wishes = SegmentationParameters(model=model, budget_seconds=_between(needed_s, share))
    else:
        needed_bytes = [float(option.peak_bytes_high or 0) for option in options]
        wishes = SegmentationParameters(model=model, budget_bytes=round(_between(needed_bytes, share)))
    try:
        job = client.wait(client.submit(scan, wishes).id)
    except FactoryProblem as problem:
        if problem.type.endswith(":budget-too-small"):
            return None
        raise
    return job.budget is not None and bool(job.budget.kept)


def _between(needed: list[float], share: float) -> float:
    return min(needed) + share * (max(needed) - min(needed))


def _pair(ranges: Ranges, random: np.random.Generator) -> tuple[Shape, Spacing]:
    r, a, s = (int(random.integers(low, high + 1)) for low, high in ranges.voxels)
    along_r, along_a, along_s = (round(float(random.uniform(low, high)), 2) for low, high in ranges.millimetres)
    return (r, a, s), (along_r, along_a, along_s)


def _scan(folder: Path, shape: Shape, spacing: Spacing, random: np.random.Generator) -> Path:
    path = folder / "scan.nii.gz"
    voxels = random.integers(0, 1000, shape).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([*spacing, 1.0])), path)
    return path


def _await_figures(client: FactoryClient) -> None:
    deadline = time.monotonic() + CALIBRATED_WITHIN_S
    while any(client.quote((32, 32, 8), (1.0, 1.0, 5.0), model=model).measurements == 0 for model in RANGES):
        assert time.monotonic() < deadline, "the worker was not calibrated in time"
        time.sleep(0.5)


def _answer_ms(client: FactoryClient, trial: Trial) -> float:
    """Right after a job, so that the prices are fitted anew."""
    started = time.perf_counter()
    client.quote(trial.quote.shape, trial.quote.spacing, model=trial.quote.model)
    return (time.perf_counter() - started) * 1000


def _seconds(job: Job) -> float:
    return sum(job.timings_s.values())


def _error_row(name: str, errors: list[float], aim: Bound | None = None) -> Row:
    """The median."""
    percent = [100 * error for error in errors]
    return Row(name=name, value=statistics.median(percent), unit="%", spread=_quartiles(percent), aim=aim)


def _quartiles(values: list[float]) -> tuple[float, float]:
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return first, third
