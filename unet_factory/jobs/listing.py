"""An owner's jobs, the newest first, in pages that stay right while jobs come and go."""

import re
from collections.abc import Collection
from typing import Any, NamedTuple, Self

from redis import Redis

from unet_factory.domain.errors import MalformedRequest
from unet_factory.domain.jobs import Job, JobState
from unet_factory.jobs.keys import listing_key
from unet_factory.jobs.store import JobStore

MOST_LOOKED_AT = 2000  # for one page, however few of them are in a wanted state

_CHUNK = 200
_CURSOR = re.compile(r"(\d{1,12}(?:\.\d{1,20})?)-([0-9a-f]{32})")


class Cursor(NamedTuple):
    """A place in the list: just after the job that was accepted then. It holds although that job may be purged."""

    accepted: float
    job_id: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """
        Raises:
            MalformedRequest: not a cursor of this service's.
        """
        found = _CURSOR.fullmatch(text)
        if found is None:
            raise MalformedRequest(f"cursor is {text[:100]!r}; leave it out, or take it from `next` of an earlier page")
        return cls(float(found[1]), found[2])

    def __str__(self) -> str:
        return f"{self.accepted!r}-{self.job_id}"


class JobPage(NamedTuple):
    """``next`` is where the list goes on; None at its end. A page may be short, even empty, and still have a next."""

    jobs: list[Job]
    next: Cursor | None


class JobListing:
    """Synchronous; safe to share between threads."""

    def __init__(self, redis: Redis, jobs: JobStore) -> None:
        self._redis, self._jobs = redis, jobs

    def page(
        self, owner: str, *, limit: int, after: Cursor | None = None, states: Collection[JobState] = tuple(JobState)
    ) -> JobPage:
        """At most ``limit`` of the owner's jobs in one of ``states``."""
        found: list[Job] = []
        for _ in range(MOST_LOOKED_AT // _CHUNK):
            chunk = self._chunk(owner, after)
            at = {cursor.job_id: cursor for cursor in chunk}
            for job in self._jobs.get_all(list(at)):
                if job.state in states:
                    found.append(job)
                if len(found) == limit:
                    return JobPage(found, at[job.id])
            if len(chunk) < _CHUNK:
                return JobPage(found, None)
            after = chunk[-1]
        return JobPage(found, after)

    def _chunk(self, owner: str, after: Cursor | None) -> list[Cursor]:
        """Jobs accepted at the cursor's very moment come in the order of their ids, so none is lost or repeated."""
        newest = "+inf" if after is None else repr(after.accepted)
        raw: Any = self._redis.zrevrangebyscore(
            listing_key(owner), newest, "-inf", start=0, num=_CHUNK + 1, withscores=True
        )
        cursors = [Cursor(score, job_id.decode()) for job_id, score in raw]
        return [cursor for cursor in cursors if after is None or cursor < after][:_CHUNK]
