"""Faults in an order that a seed decides: each has a start, a length and an end; two may last at the same time."""

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from tests.system.serve_process import children
from tests.torture.cluster import SILENCE_S, STORES, WORKERS, Cluster, Role
from tests.torture.receivers import Mood, Receivers
from unet_factory_cli.embedded import EmbeddedServer

_DAMAGED = b"\0damaged\0"
_CLOCK_JUMPS = ("+3h", "-3h", "+40d")
_FREE_BYTES = 2 * 2**20  # of a disk that is nearly full: less than uploads must leave, enough for the journal
_AT_ONCE = 2
_PAUSE_S = (1.0, 4.5)  # between the beginnings of two faults


@dataclass(frozen=True)
class Fault:
    """One that lasts. ``end`` undoes it."""

    name: str
    until: float
    end: Callable[[], None]


Begin = Callable[[], Callable[[], None] | None]


class Nemesis:
    """Works in the main thread by :meth:`tend`. ``has_own_disk``: the cluster's disk may be filled."""

    def __init__(self, cluster: Cluster, receivers: Receivers, seed: int, *, has_own_disk: bool) -> None:
        self._cluster, self._receivers, self._random = cluster, receivers, random.Random(seed)
        self._lasting: list[Fault] = []
        self._next = 0.0
        self._kinds = self._all_kinds(has_own_disk=has_own_disk)
        self._waiting = list[str]()

    def tend(self) -> None:
        """End what has lasted long enough; begin the next when it is time."""
        now = time.monotonic()
        for fault in [fault for fault in self._lasting if fault.until <= now]:
            self._end(fault)
        if now >= self._next and len(self._lasting) < _AT_ONCE:
            self._begin(now)
            self._next = now + self._random.uniform(*_PAUSE_S)

    def make_peace(self) -> None:
        for fault in list(self._lasting):
            self._end(fault)
        for link in self._cluster.links.values():
            link.heal()

    def _begin(self, now: float) -> None:
        if not self._waiting:  # every kind once, in another order each time
            self._waiting = [name for name, (often, _, _) in self._kinds.items() for _ in range(often)]
            self._random.shuffle(self._waiting)
        name = self._waiting.pop()
        _, lasts_s, begin = self._kinds[name]
        until = now + self._random.uniform(*lasts_s)
        end = begin()
        if end is None:  # its victim is in the hands of another fault, or there is none
            return
        self._cluster.history.note("nemesis", "fault-begins", kind=name)
        self._lasting.append(Fault(name, until, end))

    def _end(self, fault: Fault) -> None:
        self._lasting.remove(fault)
        fault.end()
        self._cluster.history.note("nemesis", "fault-ends", kind=fault.name)

    def _all_kinds(self, *, has_own_disk: bool) -> dict[str, tuple[int, tuple[float, float], Begin]]:
        """By name: how often in a round, how long (s), and what it does."""
        kinds: dict[str, tuple[int, tuple[float, float], Begin]] = {}
        for name in ("gateway", "worker", "courier", "listener"):
            victims = tuple(role for role in self._cluster.roles if role.startswith(name))
            often = 1 if name == "worker" else 2  # one takes long to start: it must do some work between its deaths
            kinds[f"kill {name}"] = (often, (0.0, 2.0), partial(self._kill, victims))
            kinds[f"stop {name}"] = (2, (0.5, 8.0), partial(self._stop, victims))
            kinds[f"restart {name}"] = (1, (0.5, 1.0), partial(self._restart, victims))
        for store in STORES:
            kinds[f"kill {store}"] = (2, (0.1, 3.0), partial(self._kill, (store,)))
            kinds[f"stop {store}"] = (2, (0.5, 7.0), partial(self._stop, (store,)))
        kinds["kill worker's child"] = (1, (0.1, 0.5), partial(self._hurt_child, signal.SIGKILL))
        kinds["hang worker's child"] = (1, (SILENCE_S, SILENCE_S + 5), partial(self._hurt_child, signal.SIGSTOP))
        for other in ("jobs", "cache", "clients", "destinations", "gateway"):
            kinds[f"cut {other}"] = (2, (0.1, 2.0), partial(self._cut, other))
            kinds[f"delay {other}"] = (1, (1.0, 4.0), partial(self._delay, other))
            kinds[f"withhold {other}"] = (1, (1.0, 7.0), partial(self._withhold, other))
        for mood in (Mood.REFUSING, Mood.SILENT, Mood.FORGETTING):
            kinds[f"{mood} receivers"] = (1, (1.0, 4.0), partial(self._change_mood, mood))
        kinds["corrupt cache"] = (3, (0.1, 0.5), self._corrupt)
        if has_own_disk:
            kinds["fill disk below the reserve"] = (1, (2.0, 5.0), partial(self._fill, _FREE_BYTES))
            kinds["fill disk to the last byte"] = (1, (1.0, 4.0), partial(self._fill, 0))
        if self._cluster.clock_file is not None:
            kinds["shift clock of a worker"] = (2, (2.0, 8.0), self._shift_clock)
        return kinds

    def _victim(self, names: tuple[str, ...]) -> Role | None:
        free = [role for name in names if not (role := self._cluster.roles[name]).held and role.running]
        return self._random.choice(free) if free else None

    def _kill(self, names: tuple[str, ...]) -> Callable[[], None] | None:
        return self._take_down(self._victim(names), Role.kill)

    def _restart(self, names: tuple[str, ...]) -> Callable[[], None] | None:
        """Told to end; what does not do so in time is killed when it is started again."""
        return self._take_down(self._victim(names), Role.ask_to_end)

    def _take_down(self, role: Role | None, how: Callable[[Role], None]) -> Callable[[], None] | None:
        if role is None:
            return None
        role.held = True
        how(role)

        def end() -> None:
            role.kill()
            role.held = False
            self._cluster.start_again(role)

        return end

    def _stop(self, names: tuple[str, ...]) -> Callable[[], None] | None:
        role = self._victim(names)
        if role is None:
            return None
        role.held = True
        role.signal(signal.SIGSTOP)

        def end() -> None:
            role.signal(signal.SIGCONT)
            role.held = False

        return end

    def _hurt_child(self, how: signal.Signals) -> Callable[[], None] | None:
        """Its parent sees to the rest: a child that hangs is killed and replaced in the end."""
        role = self._victim(WORKERS)
        found = children(role.process.pid) if role is not None and role.process is not None else []
        if not found:
            return None
        with suppress(ProcessLookupError):
            os.kill(self._random.choice(found), how)
        return _nothing

    def _links(self, other: str) -> list[tuple[str, str]]:
        return sorted(link for link in self._cluster.links if link[1] == other)

    def _cut(self, other: str) -> Callable[[], None]:
        link = self._cluster.links[self._random.choice(self._links(other))]
        link.cut(refuse=self._random.random() < 0.5)
        return link.heal

    def _delay(self, other: str) -> Callable[[], None]:
        link = self._cluster.links[self._random.choice(self._links(other))]
        link.delay_s = self._random.uniform(0.02, 0.3)
        return link.heal

    def _withhold(self, other: str) -> Callable[[], None]:
        link = self._cluster.links[self._random.choice(self._links(other))]
        link.withhold()
        return link.heal

    def _change_mood(self, mood: Mood) -> Callable[[], None]:
        self._receivers.mood = mood

        def end() -> None:
            self._receivers.mood = Mood.WILLING

        return end

    def _corrupt(self) -> Callable[[], None] | None:
        """A few bytes within one network, half of one, or another network than its key says."""
        with Redis.from_url(EmbeddedServer.url_in(self._cluster.cache_folder), socket_timeout=1, retry=None) as cache:
            try:
                keys = sorted(key for key in cache.keys("weights:*") if cache.type(key) == b"string")
                keys = [key for key in keys if cache.strlen(key) > 1000]
                if not keys:
                    return None
                key, other = self._random.choice(keys), self._random.choice(keys)
                size = int(cache.strlen(key))
                how = self._random.choice(("flip", "halve", "swap"))
                if how == "flip":
                    cache.setrange(key, self._random.randrange(size), _DAMAGED)
                elif how == "halve":
                    cache.set(key, cache.getrange(key, 0, size // 2))
                else:
                    cache.set(key, cache.get(other) or b"")
            except RedisError:  # it is down
                return None
        return _nothing

    def _fill(self, free_bytes: int) -> Callable[[], None] | None:
        filler = self._cluster.disk / "filler"
        if filler.exists():
            return None
        fill(filler, free_bytes)
        return lambda: filler.unlink(missing_ok=True)

    def _shift_clock(self) -> Callable[[], None] | None:
        file = self._cluster.clock_file
        if file is None or file.read_text() != "+0s":
            return None
        file.write_text(self._random.choice(_CLOCK_JUMPS))
        return lambda: _set_right(file)


def _set_right(clock: Path) -> None:
    clock.write_text("+0s")


def _nothing() -> None:
    """It has no end."""


def fill(path: Path, free_bytes: int) -> None:
    """Write until only so many bytes are free."""
    with path.open("wb", buffering=0) as file:
        for size in (2**20, 2**16, 2**12, 1):
            with suppress(OSError):
                while shutil.disk_usage(path).free - size >= free_bytes and file.write(b"x" * size) == size:
                    pass
