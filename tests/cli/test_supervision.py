"""Supervision of real processes: started again when they die, ended with all they started, whatever happens to us."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.system.processes import alive, until
from unet_factory_cli.failures import CommandFailed
from unet_factory_cli.processes import Watchdog
from unet_factory_cli.signs_of_life import SignsOfLife
from unet_factory_cli.supervision import FIRST_PAUSE_S, Component, Supervisor

PATIENCE_S = 0.5

# a leader that ignores SIGTERM, with a child that nobody told us about
STUBBORN = """
import signal, subprocess, sys, time
from pathlib import Path
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
Path(sys.argv[1]).write_text(str(child.pid))
time.sleep(600)
"""
# a parent that has a group guarded and then waits
GUARDING = """
import subprocess, sys, time
from unet_factory_cli.processes import Watchdog
with Watchdog() as watchdog:
    process = subprocess.Popen([sys.executable, "-c", sys.argv[1], sys.argv[2]], process_group=0)
    watchdog.guard(process)
    time.sleep(600)
"""
# gives signs until it is told to stop itself, as a hang looks from outside
SIGNING = """
import os, signal, sys, time
from unet_factory.platform.signs_of_life import give_signs_in_background
signal.signal(signal.SIGUSR1, lambda *_: os.kill(os.getpid(), signal.SIGSTOP))
give_signs_in_background()
time.sleep(600)
"""

Supervise = Callable[..., Supervisor]


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def supervise(said: list[str]) -> Iterator[Supervise]:
    with Watchdog() as watchdog:
        yield lambda *components: Supervisor([list(components)], watchdog, said.append)


def component(name: str, code: str, *arguments: str) -> Component:
    def start() -> "subprocess.Popen[bytes]":
        return subprocess.Popen([sys.executable, "-c", code, *arguments], process_group=0)

    return Component(name, start, PATIENCE_S)


def test_what_dies_is_started_again_after_a_growing_pause(supervise: Supervise, said: list[str]) -> None:
    sleeper = component("sleeper", "import time; time.sleep(600)")
    supervisor = supervise(sleeper)
    supervisor.start()
    supervisor.ready()
    pauses = []
    for _ in range(3):
        killed, before = time.monotonic(), pid_of(sleeper)
        os.kill(before, signal.SIGKILL)
        tend_until(supervisor, lambda: pid_of(sleeper) not in (0, before))  # noqa: B023 (called at once)
        pauses.append(time.monotonic() - killed)
    supervisor.stop()
    assert sleeper.process is None
    assert all(pause >= FIRST_PAUSE_S * 2**death for death, pause in enumerate(pauses))
    assert [line.split(";")[0] for line in said] == ["the sleeper was killed by SIGKILL"] * 3


def test_what_falls_silent_is_killed_and_started_again(
    supervise: Supervise, said: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not before its first sign, however long it takes to start; and not while it gives signs."""
    signs = SignsOfLife(tmp_path / "socket", silence_s=1.5)
    for name, value in signs.environment.items():
        monkeypatch.setenv(name, value)
    signing = component("signer", SIGNING)
    signing.signs = signs
    supervisor = supervise(signing)
    supervisor.start()
    supervisor.ready()
    first, began = pid_of(signing), time.monotonic()
    tend_until(supervisor, lambda: time.monotonic() - began > 2 * signs.silence_s)
    assert (pid_of(signing), said) == (first, [])
    os.kill(first, signal.SIGUSR1)
    tend_until(supervisor, lambda: pid_of(signing) not in (0, first))
    supervisor.stop()
    assert [line.split(";")[0] for line in said] == ["the signer gave no sign of life for 1.5 s and was killed"]


def test_what_keeps_dying_before_all_was_ready_is_given_up(supervise: Supervise, said: list[str]) -> None:
    supervisor = supervise(component("mayfly", "raise SystemExit(7)"))
    supervisor.start()
    with pytest.raises(CommandFailed, match="the mayfly exited with code 7, 3 times in a row"):
        tend_until(supervisor, lambda: False)
    supervisor.stop()
    assert len(said) == 2


def test_what_cannot_be_started_is_a_failure(supervise: Supervise) -> None:
    def start() -> "subprocess.Popen[bytes]":
        raise RuntimeError("no such thing")

    with pytest.raises(CommandFailed, match="the ghost cannot be started: no such thing"):
        supervise(Component("ghost", start, PATIENCE_S)).start()


def test_what_does_not_stop_is_killed_with_all_it_started(
    supervise: Supervise, said: list[str], tmp_path: Path
) -> None:
    stubborn = component("mule", STUBBORN, str(tmp_path / "pid"))
    supervisor = supervise(stubborn)
    supervisor.start()
    child = until(lambda: pid_in(tmp_path / "pid"))
    supervisor.stop()
    until(lambda: not alive(child), 5)
    assert said == ["the mule did not stop in time and is killed"]


def test_the_watchdog_ends_whole_groups_after_kill_9_of_their_parent(tmp_path: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-c", GUARDING, STUBBORN, str(tmp_path / "pid")], process_group=0)
    grandchild = until(lambda: pid_in(tmp_path / "pid"))
    assert alive(grandchild)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    until(lambda: not alive(grandchild), 5)


def tend_until(supervisor: Supervisor, reached: Callable[[], bool]) -> None:
    def look() -> bool:
        supervisor.tend()
        return reached()

    until(look, 20)


def pid_of(member: Component) -> int:
    return member.process.pid if member.process is not None else 0


def pid_in(file: Path) -> int:
    return int(file.read_text() or 0) if file.exists() else 0
