"""Bulkhead for the checking of uploads: it takes CPU for seconds, and nothing else that callers wait for may wait too.

Checks run in threads of their own, a few at a time, so health, access and everything else keep the server's threads; no
caller has more than half of the places while others could want one.
"""

import os
from collections.abc import Callable
from typing import TypeVar, TypeVarTuple, Unpack
from weakref import WeakValueDictionary

from anyio import CapacityLimiter, to_thread

Arguments = TypeVarTuple("Arguments")
T = TypeVar("T")


class Checking:
    """Belongs to one event loop. Whoever finds no place waits for one, in the order of coming."""

    def __init__(self, places: int | None = None) -> None:
        self._places = places or max(2, os.cpu_count() or 1)
        self._all = CapacityLimiter(self._places)
        self._of_owners: WeakValueDictionary[str, CapacityLimiter] = WeakValueDictionary()

    async def run(self, owner: str, check: Callable[[Unpack[Arguments]], T], *args: *Arguments) -> T:
        """What ``check`` returns; ``owner`` is empty where no API keys are required."""
        if not owner:
            return await to_thread.run_sync(check, *args, limiter=self._all)
        own = self._of_owners.setdefault(owner, CapacityLimiter(max(1, self._places // 2)))
        async with own:
            return await to_thread.run_sync(check, *args, limiter=self._all)
