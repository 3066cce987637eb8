"""How fast a run goes, how much of its time it waits for batches, and how long it will still take."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True)
class Rate:
    """``waiting``: the share of the time spent waiting for batches, 0 to 1. ``left_s``: to the run's end."""

    iterations_per_s: float
    waiting: float
    left_s: float

    def __str__(self) -> str:
        left = timedelta(seconds=round(self.left_s))
        return f"{self.iterations_per_s:.2f} iterations/s, {self.waiting:.0%} waiting for batches, {left} left"


class Pace:
    """Starts at iteration ``done``, with a ``share`` of the run behind it (0 to 1).

    The rate is that of the iterations since the last report, without what :meth:`paused` was told to leave out. The
    time left is extrapolated from all of this process's time, so it includes saving and validation.
    """

    def __init__(self, done: int, share: float, clock: Callable[[], float] = time.perf_counter) -> None:
        self._done, self._first_share, self._clock = done, share, clock
        self._started = clock()
        self._restart()

    def timed(self, batches: Iterable[Item]) -> Iterator[Item]:
        """The same batches; the time until each one is there counts as waiting."""
        iterator = iter(batches)
        while True:
            asked = self._clock()
            try:
                item = next(iterator)
            except StopIteration:
                return
            self._waited_s += self._clock() - asked
            yield item

    def report(self, iteration: int, share: float) -> Rate:
        """The rate since the last report, with ``iteration`` iterations and a ``share`` of the run done now."""
        now = self._clock()
        elapsed_s = max(now - self._since, 1e-9)
        whole_s = (now - self._started) / (share - self._first_share)
        rate = Rate(
            iterations_per_s=(iteration - self._done) / elapsed_s,
            waiting=self._waited_s / elapsed_s,
            left_s=whole_s * max(0.0, 1 - share),
        )
        self._done = iteration
        self._restart()
        return rate

    def paused(self, seconds: float) -> None:
        """Leave ``seconds`` that were spent on something else out of the next rate."""
        self._since += seconds

    def _restart(self) -> None:
        self._since, self._waited_s = self._clock(), 0.0
