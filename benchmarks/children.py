"""Contestants in processes of their own: what malloc does with freed memory is decided once in each."""

import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from typing import Literal

from benchmarks.timing import Sample
from unet_factory.platform.process_memory import peak_bytes, reset_peak_bytes

Work = Callable[[], object]
Prepare = Callable[[], Work]
_Order = Literal["run", "peak"]


class Contestant:
    """The work that ``prepare``, which must be picklable, returns in a fresh process."""

    def __init__(self, ours: Connection) -> None:
        self._ours = ours

    def run(self) -> tuple[float, float]:
        """Do the work once; seconds on the clock and of CPU time over all threads of that process."""
        return self._asked("run")

    def peak_bytes(self) -> int:
        """What doing the work once more adds to that process."""
        return round(self._asked("peak")[0])

    def _asked(self, order: _Order) -> tuple[float, float]:
        self._ours.send(order)
        first, second = self._ours.recv()
        return first, second


@contextmanager
def contestant(prepare: Prepare) -> Iterator[Contestant]:
    """In a process that ends with the block."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, prepare), daemon=True)
    process.start()
    theirs.close()
    try:
        yield Contestant(ours)
    finally:
        process.terminate()
        process.join()


def in_turns(contestants: Mapping[str, Prepare], *, rounds: int) -> dict[str, Sample]:
    """As :func:`benchmarks.timing.interleaved`, each in a process of its own; one round does not count."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
    with ExitStack() as stack:
        running = {name: stack.enter_context(contestant(prepare)) for name, prepare in contestants.items()}
        for number in range(rounds + 1):
            for name, child in running.items():
                seconds = child.run()
                if number:
                    taken[name].append(seconds)
    return {name: Sample(*map(tuple, zip(*seconds, strict=True))) for name, seconds in taken.items()}


def _serve(connection: Connection, prepare: Prepare) -> None:
    work = prepare()
    while True:
        match connection.recv():
            case "run":
                connection.send(_timed(work))
            case "peak":
                before = reset_peak_bytes()
                work()
                connection.send((peak_bytes() - before, 0.0))


def _timed(work: Work) -> tuple[float, float]:
    started, cpu_started = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - started, time.process_time() - cpu_started
