"""One scan or many: some at a time, on after one that fails, and all of them stopped by an interrupt."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Protocol

import httpx
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from unet_factory.domain.errors import FactoryError
from unet_factory.domain.jobs import Problem
from unet_factory.domain.problems import problem_of
from unet_factory_cli.failures import CommandFailed
from unet_factory_cli.outcome import Outcome
from unet_factory_cli.remote import with_hint
from unet_factory_cli.scans import Task
from unet_factory_client import FactoryProblem

OnProgress = Callable[[float, str], None]
"""Told the part that is done, 0 to 1, and the state in a word."""

_POLL_S = 0.2


class Interrupted(Exception):
    """The command was interrupted; the scan in hand was given up."""


class Segmenter(Protocol):
    """Safe to share between threads."""

    def segment(self, task: Task, progress: OnProgress) -> Outcome:
        """Write the task's files."""

    def stop(self) -> None:
        """Give up what is being done."""


def segment_all(segmenter: Segmenter, tasks: Sequence[Task], jobs: int) -> Iterator[Outcome]:
    """The outcomes as they come; a scan that cannot be segmented is one, too.

    Raises:
        CommandFailed: the command was interrupted.
    """
    with _progress(len(tasks)) as tell, ThreadPoolExecutor(jobs) as pool:
        waiting = {pool.submit(_segment, segmenter, task, tell) for task in tasks}
        try:
            while waiting:
                done, waiting = wait(waiting, timeout=_POLL_S, return_when=FIRST_COMPLETED)
                yield from map(Future.result, done)
        except KeyboardInterrupt:
            what = "the job was" if len(tasks) == 1 else "the jobs in hand were"
            raise CommandFailed(f"interrupted; {what} cancelled") from None
        finally:
            for future in waiting:
                future.cancel()
            if waiting:
                segmenter.stop()


def _segment(segmenter: Segmenter, task: Task, tell: "Callable[[Task, float, str], None]") -> Outcome:
    try:
        outcome = segmenter.segment(task, lambda part, state: tell(task, part, state))
    except (FactoryError, FactoryProblem, httpx.HTTPError, OSError, RuntimeError) as error:
        outcome = Outcome(scan=str(task.scan), output=str(task.output), state="failed", error=_problem(error))
    tell(task, 1.0, outcome.state)
    return outcome


def _problem(error: Exception) -> Problem:
    match error:
        case FactoryError():
            return problem_of(error)
        case FactoryProblem():
            return Problem(type=error.type, title=error.title, detail=with_hint(error), details=error.details)
        case _:
            return Problem(type="about:blank", title=type(error).__name__, detail=str(error))


@contextmanager
def _progress(total: int) -> Iterator[Callable[[Task, float, str], None]]:
    """A bar over all scans, on standard error where that is a terminal."""
    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn()
    parts: dict[Task, float] = {}
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("", total=total)

        def tell(task: Task, part: float, state: str) -> None:
            parts[task] = part
            ended = sum(part >= 1 for part in parts.values())
            description = state if total == 1 else f"{ended} of {total}"
            progress.update(bar, completed=sum(parts.values()), description=description)

        yield tell
