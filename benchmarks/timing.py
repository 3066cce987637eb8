"""Measuring on a machine that is doing other things too: contestants take turns, and only their ratios are compared."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.rows import Bound, Row


@dataclass(frozen=True)
class Sample:
    """One contestant's rounds: seconds on the clock, and seconds of this process's CPU time over all its threads."""

    wall_s: tuple[float, ...]
    cpu_s: tuple[float, ...]

    @property
    def median_s(self) -> float:
        return statistics.median(self.wall_s)


def interleaved(contestants: Mapping[str, Callable[[], object]], *, rounds: int = 9) -> dict[str, Sample]:
    """Run all in turn (A B C, A B C, ...) after one round that does not count."""
    wall: dict[str, list[float]] = {name: [] for name in contestants}
    cpu: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds + 1):
        for name, run in contestants.items():
            started, cpu_started = time.perf_counter(), time.process_time()
            run()
            ended, cpu_ended = time.perf_counter(), time.process_time()
            if number:
                wall[name].append(ended - started)
                cpu[name].append(cpu_ended - cpu_started)
    return {name: Sample(tuple(wall[name]), tuple(cpu[name])) for name in contestants}


def quartiles(values: tuple[float, ...]) -> tuple[float, float]:
    """The first and the third; of a single value, that value twice."""
    if len(values) < 2:
        return values[0], values[0]
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return first, third


def ratio_of(ours: tuple[float, ...], theirs: tuple[float, ...]) -> float:
    """The median of the ratios round by round: what slows a whole round down cancels out."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def timed_row(
    name: str,
    samples: Mapping[str, Sample],
    ours: str,
    against: str = "",
    *,
    aim: Bound | None = None,
    before: str = "",
    note: str = "",
    cpu: bool = False,
) -> Row:
    """The row of contestant ``ours`` in ms, by the clock or by CPU time; the bound is on its ratio to ``against``."""

    def figures(contestant: str) -> tuple[float, ...]:
        return samples[contestant].cpu_s if cpu else samples[contestant].wall_s

    low, high = quartiles(figures(ours))
    return Row(
        name=name,
        value=statistics.median(figures(ours)) * 1000,
        unit="ms of CPU" if cpu else "ms",
        spread=(low * 1000, high * 1000),
        against=against,
        ratio=ratio_of(figures(ours), figures(against)) if against else None,
        aim=aim,
        before=before,
        note=note,
    )


def rates_row(
    name: str,
    rates: Mapping[str, Sequence[float]],
    ours: str,
    against: str,
    unit: str,
    *,
    aim: Bound | None = None,
    before: str = "",
) -> Row:
    """A row of so many a second, measured in turns."""
    own, theirs = tuple(rates[ours]), tuple(rates[against])
    return Row(
        name=name,
        value=statistics.median(own),
        unit=unit,
        spread=quartiles(own),
        against=against,
        ratio=ratio_of(own, theirs),
        aim=aim,
        before=before,
    )
