"""Two processes that watch each other: the silent one is killed, and neither when both were stopped."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tests.system.processes import alive, until
from unet_factory_worker.mutual_watch import BEAT_S

SILENCE_S = 2.0
PAIR = """
import os, sys, time
from unet_factory_worker.mutual_watch import MutualWatch, Pulse
parent, child = Pulse(), Pulse()
MutualWatch(parent, child, "child", float(sys.argv[1])).start()
if not (pid := os.fork()):
    MutualWatch(child, parent, "parent", float(sys.argv[1])).start()
    time.sleep(600)
print(pid, flush=True)
os.waitpid(pid, 0)
time.sleep(600)
"""


@pytest.fixture
def pair() -> Iterator[tuple[int, int]]:
    """The process ids of a parent and its child, in a group of their own."""
    command = [sys.executable, "-c", PAIR, str(SILENCE_S)]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, process_group=0)
    assert parent.stdout is not None
    yield parent.pid, int(parent.stdout.readline())
    os.killpg(parent.pid, signal.SIGKILL)
    parent.communicate()


@pytest.mark.parametrize("stopped", [0, 1])
def test_the_one_that_is_stopped_is_killed_by_the_other(pair: tuple[int, int], stopped: int) -> None:
    time.sleep(2 * SILENCE_S)
    assert all(alive(pid) for pid in pair)
    os.kill(pair[stopped], signal.SIGSTOP)
    until(lambda: not alive(pair[stopped]), SILENCE_S + 10)
    assert alive(pair[1 - stopped])


def test_when_both_were_stopped_and_go_on_neither_is_killed(pair: tuple[int, int]) -> None:
    time.sleep(4 * BEAT_S)
    os.killpg(pair[0], signal.SIGSTOP)
    time.sleep(2 * SILENCE_S)
    os.killpg(pair[0], signal.SIGCONT)
    time.sleep(2 * BEAT_S)
    assert all(alive(pid) for pid in pair)
