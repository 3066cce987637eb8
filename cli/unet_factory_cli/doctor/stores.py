"""The two Redis servers, the blob store and its disk."""

import shutil
import time
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from redis import exceptions
from redis.exceptions import RedisError

from unet_factory.domain.errors import StorageFull
from unet_factory.platform.blob_store import BlobStore
from unet_factory.platform.redis_clients import connect
from unet_factory.platform.settings import Settings
from unet_factory_cli.doctor.findings import Finding, Findings, failed, ok, warning

_LARGEST_SKEW_S = 2.0
_NEARLY_FULL = 0.8


def job_store(settings: Settings) -> Findings:
    """Redis for jobs must be there, keep what it is given, and agree about the time."""
    part = "job store"
    with connect(settings.redis_url) as redis:
        try:
            before = time.time()
            seconds, microseconds = redis.time()
            after = time.time()
        except RedisError as error:
            advice = "start it, or set UNET_FACTORY_REDIS_URL to where it is"
            yield failed(part, f"{_place(settings.redis_url)} cannot be used: {_why(error)}", advice)
            return
        yield ok(part, f"{_place(settings.redis_url)} answers in {(after - before) * 1000:.1f} ms")
        yield from _durability(part, redis.info("persistence"))
        yield from _memory(part, redis.info("memory"))
        yield _clock(seconds + microseconds / 1e6 - (before + after) / 2)


def cache(settings: Settings) -> Findings:
    """Redis for generated networks may forget; it should not share its memory with the jobs."""
    part = "weight cache"
    if settings.weights_url == settings.redis_url:
        advice = "set UNET_FACTORY_CACHE_URL to a second Redis with maxmemory and allkeys-lru"
        yield warning(part, "generated networks share the job store, which must never evict", advice)
        return
    try:
        with connect(settings.weights_url) as redis:
            memory: Any = redis.info("memory")
    except RedisError as error:
        advice = "start it, or set UNET_FACTORY_CACHE_URL to where it is"
        yield failed(part, f"{_place(settings.weights_url)} cannot be used: {_why(error)}", advice)
        return
    policy = memory.get("maxmemory_policy")
    if not memory.get("maxmemory"):
        yield warning(part, "it has no maxmemory and grows without bound", "set maxmemory, such as 1gb")
    elif policy == "noeviction":
        yield warning(part, "when full it refuses new networks", "set maxmemory-policy allkeys-lru")
    else:
        yield ok(
            part, f"{_place(settings.weights_url)} answers; at most {memory['maxmemory'] / 2**20:.0f} MiB, {policy}"
        )


def blobs(settings: Settings, scratch: Path) -> Findings:
    """The blob store is written to, read and cleaned; its disk must have room for uploads.

    Args:
        scratch: a folder of this command's own.
    """
    part, name = "blob store", f"doctor-{uuid.uuid4().hex}"
    place = _place(settings.blob_url)
    advice = "mend UNET_FACTORY_BLOB_URL, its credentials or its permissions"
    probe = scratch / name
    probe.write_bytes(name.encode())
    try:
        store = BlobStore(settings.blob_url, "doctor", min_free_bytes=settings.min_free_bytes)
        store.put(name, "probe", probe)
        with store.local(name, "probe") as file:
            whole = file.read_bytes() == name.encode()
        store.delete(name)
        store.check_room(0)
    except StorageFull as error:
        yield failed(part, f"{place}: {error}", "free space, or lower UNET_FACTORY_MIN_FREE_BYTES")
        return
    except Exception as error:  # every kind of store has errors of its own
        yield failed(part, f"{place} cannot be used: {_why(error)}", advice)
        return
    if not whole:
        yield failed(part, f"{place} gave back other bytes than it was given", advice)
        return
    yield ok(part, f"{place} writes, reads and deletes")
    yield from _disk(settings)


def _durability(part: str, persistence: Any) -> Findings:
    if not persistence.get("aof_enabled"):
        yield warning(part, "no append-only file: a restart may lose accepted jobs", "set appendonly yes")
    elif persistence.get("aof_last_write_status") != "ok":
        yield failed(part, "the append-only file could not be written", "look at its disk and at Redis's log")
    else:
        yield ok(part, "the append-only file is written")


def _memory(part: str, memory: Any) -> Findings:
    policy, limit, used = (memory.get(key) for key in ("maxmemory_policy", "maxmemory", "used_memory"))
    if policy != "noeviction":
        yield failed(part, f"maxmemory-policy is {policy}: jobs may be evicted", "set maxmemory-policy noeviction")
    if limit and used > _NEARLY_FULL * limit:
        advice = "raise maxmemory, or lower UNET_FACTORY_RETENTION_S"
        yield warning(part, f"{used / 2**20:.0f} of {limit / 2**20:.0f} MiB are used", advice)


def _clock(ahead_s: float) -> Finding:
    if abs(ahead_s) <= _LARGEST_SKEW_S:
        return ok("clock", f"within {abs(ahead_s):.1f} s of the job store's")
    way = "behind" if ahead_s > 0 else "ahead of"
    return warning("clock", f"this machine's is {abs(ahead_s):.1f} s {way} the job store's", "synchronise both (NTP)")


def _disk(settings: Settings) -> Findings:
    parts = urlsplit(settings.blob_url)
    if parts.scheme == "file":
        usage = shutil.disk_usage(url2pathname(parts.path))
        yield ok("disk", f"{usage.free / 2**30:.1f} of {usage.total / 2**30:.1f} GiB are free for uploads and results")


def _place(url: str) -> str:
    """A store's URL without a password."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _why(error: Exception) -> str:
    """The kind of fault; the message only where it can hold no credentials."""
    told = isinstance(error, exceptions.ConnectionError | exceptions.ResponseError | OSError)
    return f"{type(error).__name__}: {error}" if told else type(error).__name__
