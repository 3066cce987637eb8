"""The windows of one scan, done by several workers: who does which, and which are done.

The worker that holds the job offers its windows; any other may claim one at a time, by a lease. Nothing here is needed
to finish the job: who holds it does every window that nobody else has done. Keys, all of them short-lived:
``job:ID:windows`` (the offer), ``job:ID:windows:alive`` (its lease), and for each offer's token ``job:ID:TOKEN:at``
(the window that is needed next), ``...:ended`` (set of numbers) and ``...:N`` (the lease of a window).
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import cast

from redis import Redis

from unet_factory.domain.frozen import Frozen
from unet_factory.domain.jobs import GenerationRequest
from unet_factory.domain.plausibility import Axis
from unet_factory.domain.quote import WorkerKind
from unet_factory.jobs.keys import job_key
from unet_factory.jobs.lease import exclusive

_LASTS_S = 3600  # of what a killed worker leaves behind


class WindowsOffer(Frozen):
    """All that another worker needs, besides the volume in the blob store; the network is asked for by its key.

    ``kind``: workers of another kind would not compute the same bits. ``order``: where each window starts, in the order
    in which they are needed. ``lead``: how many windows may be done ahead of the one that is needed next.
    """

    token: str
    kind: WorkerKind
    network: GenerationRequest
    mirrored_axes: tuple[Axis, ...]
    extents: tuple[int, int, int]
    order: tuple[tuple[int, int, int], ...]
    lead: int


class SharedWindows:
    """Of one job. Every method may raise RedisError."""

    def __init__(self, redis: Redis, job_id: str, lease_s: float) -> None:
        self._redis, self._lease_s = redis, lease_s
        self._offer_key = f"{job_key(job_id)}:windows"
        self._alive_key = f"{self._offer_key}:alive"
        self._job_key = job_key(job_id)

    @contextmanager
    def offered(self, offer: WindowsOffer) -> Iterator[None]:
        """For the duration of the block, others may help; they notice when this process dies in it."""
        with exclusive(self._redis, self._alive_key, self._lease_s):
            self._redis.set(self._offer_key, offer.model_dump_json(), ex=_LASTS_S)
            yield

    def clear(self) -> None:
        """Drop the offer that there is, such as that of a process that died."""
        text = cast("bytes | None", self._redis.get(self._offer_key))
        if text is not None:
            token = WindowsOffer.model_validate_json(text).token
            self._redis.delete(self._offer_key, self._key(token, "at"), self._key(token, "ended"))

    def offer(self) -> WindowsOffer | None:
        """What is offered now; None: nothing, or by a worker that has died."""
        text, alive = cast("list[bytes | None]", self._redis.mget(self._offer_key, self._alive_key))
        return WindowsOffer.model_validate_json(text) if text is not None and alive is not None else None

    def claim(self, token: str, number: int) -> AbstractContextManager[bool]:
        """Whether the caller alone may do this window, for the duration of the block."""
        return exclusive(self._redis, self._key(token, str(number)), self._lease_s)

    def end(self, token: str, number: int) -> None:
        """Say that a window need not be done any more."""
        with self._redis.pipeline(transaction=True) as pipeline:
            pipeline.sadd(self._key(token, "ended"), number)
            pipeline.expire(self._key(token, "ended"), _LASTS_S)
            pipeline.execute()

    def ended(self, token: str) -> set[int]:
        members = cast("set[bytes]", self._redis.smembers(self._key(token, "ended")))
        return {int(member) for member in members}

    def need(self, token: str, number: int) -> None:
        """Say which window is needed next."""
        self._redis.set(self._key(token, "at"), number, ex=_LASTS_S)

    def needed(self, token: str) -> int:
        return int(cast("bytes | None", self._redis.get(self._key(token, "at"))) or 0)

    def _key(self, token: str, name: str) -> str:
        return f"{self._job_key}:{token}:{name}"
