"""Keeps a claim in Redis alive while its owner works, and notices when the claim is lost."""

import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from types import TracebackType
from typing import Self

from redis import Redis
from redis.exceptions import RedisError

from unet_factory.jobs.scripts import lua

log = logging.getLogger(__name__)

RENEWALS_PER_LEASE = 3
BESIDE_EVERY_S = 0.25


class Lease:
    """Renews a claim in a thread for the duration of the block.

    ``renew`` extends the claim by ``lease_s`` and says whether it still holds. ``beside`` is called four times a
    second, in the same thread.
    """

    def __init__(
        self, name: str, renew: Callable[[], bool], lease_s: float, beside: Callable[[], None] | None = None
    ) -> None:
        self._name, self._renew, self._lease_s, self._beside = name, renew, lease_s, beside
        self._renewed = time.monotonic()
        self._lost, self._done = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=copy_context().run, args=(self._keep,), name="lease", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    @property
    def lost(self) -> bool:
        """Whether another process may have claimed it by now."""
        return self._lost.is_set()

    def _keep(self) -> None:
        renew_every_s = self._lease_s / RENEWALS_PER_LEASE
        pause_s = renew_every_s if self._beside is None else min(BESIDE_EVERY_S, renew_every_s)
        due = time.monotonic() + renew_every_s
        while not self.lost and not self._done.wait(pause_s):
            if time.monotonic() >= due:
                self._renew_once()
                due = time.monotonic() + renew_every_s
            if self._beside is not None:
                self._beside()

    def _renew_once(self) -> None:
        """A Redis that is away is waited for, as long as the lease can still be ours."""
        try:
            if self._renew():
                self._renewed = time.monotonic()
            else:
                self._lost.set()
        except RedisError as error:
            log.warning("the lease of %s cannot be renewed: %s", self._name, type(error).__name__)
            if time.monotonic() - self._renewed > self._lease_s:
                self._lost.set()


@contextmanager
def exclusive(redis: Redis, key: str, lease_s: float) -> Iterator[bool]:
    """Whether the caller alone holds ``key``, for the duration of the block."""
    owner, lease_ms = secrets.token_hex(16), round(lease_s * 1000)
    if not redis.set(key, owner, nx=True, px=lease_ms):
        yield False
        return
    renew = redis.register_script(lua("renew_lease"))
    try:
        with Lease(key, lambda: bool(renew(keys=[key], args=[owner, lease_ms])), lease_s):
            yield True
    finally:
        redis.register_script(lua("release_lease"))(keys=[key], args=[owner])
