"""Which workers are up: each announces itself in Redis again and again; who falls silent is gone after a while.

Keys: ``worker:ID`` (JSON, ends by itself), ``workers`` (set of the ids, so that asking never scans the jobs).
"""

from typing import cast

from pydantic import BaseModel, ConfigDict, Field
from redis import Redis

from unet_factory.domain.quote import WorkerKind
from unet_factory.jobs.scripts import lua

WORKERS = "workers"


class WorkerPresence(BaseModel):
    """A worker whose models are loaded. ``models`` maps names to checkpoint digests, ``pid`` is who computes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: str
    models: dict[str, str]
    started: float = Field(description="seconds since the epoch")
    pid: int
    kind: WorkerKind | None = Field(default=None, description="workers of one kind cost the same")


def announce(redis: Redis, worker_id: str, presence: WorkerPresence, ttl_s: float = 10.0) -> None:
    """Say that a worker is up, for the next ``ttl_s`` seconds."""
    script = redis.register_script(lua("announce_worker"))
    script(keys=[_key(worker_id), WORKERS], args=[presence.model_dump_json(), round(ttl_s * 1000), worker_id])


def withdraw(redis: Redis, worker_id: str) -> None:
    """Say that a worker is going away."""
    with redis.pipeline(transaction=True) as pipeline:
        pipeline.delete(_key(worker_id))
        pipeline.srem(WORKERS, worker_id)
        pipeline.execute()


def present(redis: Redis) -> list[WorkerPresence]:
    """The workers that are up now, by id."""
    ids = sorted(str(member, "ascii") for member in cast("set[bytes]", redis.smembers(WORKERS)))
    values = redis.mget([_key(worker_id) for worker_id in ids]) if ids else []
    if silent := [worker_id for worker_id, value in zip(ids, values, strict=True) if value is None]:
        redis.srem(WORKERS, *silent)  # one that speaks again is added again by its next announcement
    return [WorkerPresence.model_validate_json(value) for value in values if value is not None]


def _key(worker_id: str) -> str:
    return f"worker:{worker_id}"
