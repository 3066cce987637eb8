"""Keeping processes running: started in order, started again when they die or hang, stopped in the opposite order."""

import contextlib
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from unet_factory_cli.failures import CommandFailed
from unet_factory_cli.processes import Watchdog, kill_group

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
STEADY_AFTER_S = 30.0  # a process that has run this long starts again without a longer pause
DEATHS_BEFORE_READY = 3

Say = Callable[[str], None]


class Signs(Protocol):
    """Whether a component that has not died still lives."""

    @property
    def silence_s(self) -> float: ...
    def begin(self) -> None: ...
    def silent(self) -> bool: ...
    def close(self) -> None: ...


@dataclass(eq=False)
class Component:
    """One process, leader of its own group. ``start`` may raise RuntimeError; ``patience_s`` is its time to stop.

    With ``signs`` it is replaced when it falls silent, not only when it dies.
    """

    name: str
    start: Callable[[], "subprocess.Popen[bytes]"]
    patience_s: float
    signs: Signs | None = None
    process: "subprocess.Popen[bytes] | None" = None
    deaths: int = 0
    start_at: float = 0.0
    started: float = field(default=0.0)


class Supervisor:
    """``stages`` are started one after the other; components of one stage stop together."""

    def __init__(self, stages: Sequence[Sequence[Component]], watchdog: Watchdog, say: Say) -> None:
        self._stages, self._watchdog, self._say = stages, watchdog, say
        self._was_ready = False

    def start(self) -> None:
        """
        Raises:
            CommandFailed: a component cannot be started.
        """
        for component in self._components():
            try:
                self._start(component)
            except (OSError, RuntimeError) as error:
                raise CommandFailed(f"the {component.name} cannot be started: {error}") from error

    def tend(self) -> None:
        """Notice what has died or fallen silent, and start again what has paused long enough.

        Raises:
            CommandFailed: a component keeps dying before the system was ready once.
        """
        for component in self._components():
            if component.process is not None and component.process.poll() is not None:
                self._bury(component, _end_of(component.process))
            elif component.process is not None and component.signs is not None and component.signs.silent():
                self._bury(component, f"gave no sign of life for {component.signs.silence_s:g} s and was killed")
            elif component.process is None and time.monotonic() >= component.start_at:
                self._start_again(component)

    def ready(self) -> None:
        """Note that the whole system has worked once; from now on nothing is given up."""
        self._was_ready = True

    def stop(self) -> None:
        """End everything, last stage first; kill what does not end in its time."""
        for stage in reversed(self._stages):
            running = [(component, component.process) for component in stage if component.process is not None]
            for _, process in running:
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(signal.SIGTERM)
            deadline = time.monotonic() + max((component.patience_s for component, _ in running), default=0)
            for component, process in running:
                self._await_end(component, process, deadline)
        for component in self._components():
            if component.signs is not None:
                component.signs.close()

    def _await_end(self, component: Component, process: "subprocess.Popen[bytes]", deadline: float) -> None:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._say(f"the {component.name} did not stop in time and is killed")
        kill_group(process)
        self._watchdog.release(process)
        component.process = None

    def _start(self, component: Component) -> None:
        if component.signs is not None:
            component.signs.begin()
        component.process = component.start()
        component.started = time.monotonic()
        self._watchdog.guard(component.process)

    def _start_again(self, component: Component) -> None:
        try:
            self._start(component)
        except (OSError, RuntimeError) as error:
            self._plan_restart(component, f"could not be started: {error}")

    def _bury(self, component: Component, end: str) -> None:
        assert component.process is not None
        kill_group(component.process)
        self._watchdog.release(component.process)
        component.process = None
        if time.monotonic() - component.started > STEADY_AFTER_S:
            component.deaths = 0
        self._plan_restart(component, end)

    def _plan_restart(self, component: Component, why: str) -> None:
        component.deaths += 1
        if not self._was_ready and component.deaths >= DEATHS_BEFORE_READY:
            raise CommandFailed(
                f"the {component.name} {why}, {component.deaths} times in a row; see its messages above"
            )
        pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** (component.deaths - 1))
        component.start_at = time.monotonic() + pause_s
        self._say(f"the {component.name} {why}; it will be started again in {pause_s:g} s")

    def _components(self) -> list[Component]:
        return [component for stage in self._stages for component in stage]


def _end_of(process: "subprocess.Popen[bytes]") -> str:
    code = process.returncode
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"
