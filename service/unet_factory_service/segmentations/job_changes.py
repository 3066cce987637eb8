"""Following a job: its record now and whenever it changes."""

import math
import time
from collections.abc import AsyncIterator

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from starlette.concurrency import run_in_threadpool

from unet_factory.domain.jobs import Job
from unet_factory.jobs.keys import ENDED, events_channel
from unet_factory_service.access.callers import ANYBODY, Caller
from unet_factory_service.dependencies import GatewayContext


async def job_changes(
    gateway: GatewayContext,
    job_id: str,
    caller: Caller = ANYBODY,
    within_s: float = math.inf,
    only: bytes | None = None,
) -> AsyncIterator[Job]:
    """The job at once and after every change, until it is final, ``within_s`` is over or the server stops.

    ``only``: of the changes, those that are announced by this word, and whatever is seen every second.

    It also ends when the caller's key does: that is looked at again before each change is told, and every second.

    Changes that come faster than they are read are merged. A Redis that is away for a moment is waited for.

    Raises:
        JobExpired: it was purged meanwhile.
        JobUnknown: there is none.
    """
    deadline = time.monotonic() + within_s
    job: Job | None = None
    last: Job | None = None
    with gateway.wakeups.on(events_channel(job_id), only) as wakeup:
        while True:
            try:
                if (job := await run_in_threadpool(_look, gateway, job_id, caller)) is None:
                    return
            except (RedisConnectionError, RedisTimeoutError):
                job = last
            if job is not None and job != last:
                last = job
                yield job
            remaining_s = deadline - time.monotonic()
            if (job is not None and job.state.final) or remaining_s <= 0 or gateway.wakeups.closing:
                return
            await wakeup.wait(remaining_s)


def _look(gateway: GatewayContext, job_id: str, caller: Caller) -> Job | None:
    """None: the caller's key is not valid any more."""
    return gateway.jobs.get(job_id) if caller.is_admitted() else None


async def job_after(gateway: GatewayContext, job: Job, wait_s: float) -> Job:
    """The job as soon as it is final, or as it is after ``wait_s``."""
    if wait_s > 0:
        async for changed in job_changes(gateway, job.id, within_s=wait_s, only=ENDED):
            job = changed
    return job
