"""Generated networks in Redis, keyed so that equal answers have equal keys; one generation for many askers."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from redis import Redis
from redis.exceptions import ResponseError

from unet_factory.domain.errors import CheckpointInvalid
from unet_factory.domain.jobs import GenerationRequest
from unet_factory.platform.manifest_file import read_standalone_manifest
from unet_factory.platform.redis_clients import connect

GENERATION_LEASE_S = 30
FAILURE_TTL_S = 10
NETWORK_TTL_S = 7 * 24 * 3600  # where the store does not evict, networks nobody asks for again must still go

_DIGEST_LENGTH = 32


@dataclass(frozen=True)
class WeightsRecord:
    """The sha256 (hexadecimal) of a standalone file and the number of its bytes."""

    sha256: str
    size: int


@dataclass(frozen=True)
class CachedWeights:
    """The bytes of a standalone file and their sha256 (hexadecimal)."""

    blob: bytes
    sha256: str

    @property
    def size(self) -> int:
        return len(self.blob)


def connect_cache(url: str) -> Redis:
    """A client for a store of networks: they are read in larger pieces than the library's 64 KiB."""
    return connect(url, socket_read_size=2**20)


class StoreMemory(NamedTuple):
    """Of the server that holds the networks; ``max_bytes`` 0: no limit."""

    used_bytes: int
    max_bytes: int


class WeightCache:
    """Values are ``sha256 || blob``; a value that is damaged, or another network than its key says, is deleted and
    counts as absent.
    """

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def get(self, request: GenerationRequest) -> CachedWeights | None:
        """The cached network, verified against its digest and its key; None on a miss."""
        try:
            value: Any = self._redis.get(weight_key(request))
        except ResponseError:  # a key of another type: not written by us
            self._redis.delete(weight_key(request))
            return None
        if value is None:
            return None
        digest, blob = value[:_DIGEST_LENGTH], value[_DIGEST_LENGTH:]
        if hashlib.sha256(blob).digest() != digest or not _is_wanted(request, blob):
            self._redis.delete(weight_key(request))
            return None
        return CachedWeights(blob, digest.hex())

    def digest(self, request: GenerationRequest) -> str | None:
        """The sha256 (hexadecimal) that is stored, for 32 bytes instead of all; unverified; None on a miss."""
        try:
            digest: Any = self._redis.getrange(weight_key(request), 0, _DIGEST_LENGTH - 1)
        except ResponseError:  # a key of another type: not written by us
            return None
        return digest.hex() if len(digest) == _DIGEST_LENGTH else None

    def describe(self, request: GenerationRequest) -> WeightsRecord | None:
        """What is stored, unverified; None on a miss."""
        with self._redis.pipeline(transaction=False) as pipeline:
            pipeline.getrange(weight_key(request), 0, _DIGEST_LENGTH - 1)
            pipeline.strlen(weight_key(request))
            digest, stored_bytes = pipeline.execute(raise_on_error=False)
        if not isinstance(digest, bytes) or len(digest) != _DIGEST_LENGTH:  # else an error: a key of another type
            return None
        return WeightsRecord(digest.hex(), stored_bytes - _DIGEST_LENGTH)

    def put(self, request: GenerationRequest, blob: bytes) -> CachedWeights:
        """Store a generated network and wake everyone who waits for it."""
        digest = hashlib.sha256(blob).digest()
        with self._redis.pipeline(transaction=True) as pipeline:
            pipeline.set(weight_key(request), digest + blob, ex=NETWORK_TTL_S)
            pipeline.delete(_lease_key(request), _failure_key(request))
            pipeline.execute()
        self._redis.publish(ready_channel(request), b"ready")
        return CachedWeights(blob, digest.hex())

    def memory(self) -> StoreMemory:
        """How full the store is, with whatever else lies in the same server."""
        found: Any = self._redis.info("memory")
        return StoreMemory(found["used_memory"], found["maxmemory"])

    def drop(self, keys: Sequence[str]) -> None:
        """Forget the networks of these keys."""
        if keys:
            self._redis.unlink(*keys)

    def claim_generation(self, request: GenerationRequest) -> bool:
        """True for the one asker who is to have it generated; the claim ends by itself after a while."""
        return bool(self._redis.set(_lease_key(request), b"1", nx=True, ex=GENERATION_LEASE_S))

    def abandon_generation(self, request: GenerationRequest) -> None:
        """Give a claim back that came to nothing, so that the next asker need not wait for its end."""
        self._redis.delete(_lease_key(request))

    def fail(self, request: GenerationRequest, problem_json: str) -> None:
        """Tell everyone who waits that it cannot be made."""
        self._redis.set(_failure_key(request), problem_json, ex=FAILURE_TTL_S)
        self._redis.delete(_lease_key(request))
        self._redis.publish(ready_channel(request), b"failed")

    def failure(self, request: GenerationRequest) -> str | None:
        """The problem (JSON) of a generation that failed a moment ago."""
        value: Any = self._redis.get(_failure_key(request))
        return None if value is None else value.decode()


def weight_key(request: GenerationRequest) -> str:
    """(checkpoint digest and member, format, dtype, snapped spacing in um and conditions): never who asked, never an
    unsnapped value.
    """
    spacing = "x".join(str(um) for um in request.snapped_um)
    conditions = "".join(f":{value!r}" for value in request.conditions)
    member = "" if request.member is None else f":member-{request.member}"
    return f"weights:{request.checkpoint_digest}{member}:{request.format}:{request.dtype}:{spacing}{conditions}"


def network_identity(request: GenerationRequest) -> str:
    """What a file in another format than safetensors carries in plain bytes, to tell whose network it is."""
    return f"{weight_key(request)};"  # ended, so that no identity is the beginning of another


def _is_wanted(request: GenerationRequest, blob: bytes) -> bool:
    """Whether a standalone file says of itself that it is the network of a request: anybody can make a digest fit.

    Files in other formats hold :func:`network_identity`.
    """
    if request.format != "safetensors":
        return network_identity(request).encode() in blob
    try:
        manifest = read_standalone_manifest(blob)
    except CheckpointInvalid:
        return False
    return request == GenerationRequest(
        model=manifest.model,
        checkpoint_digest=manifest.checkpoint_digest,
        member=manifest.member,
        snapped_um=manifest.snapped_um,
        conditions=tuple(manifest.conditions.values()),
        dtype=manifest.dtype,
    )


def ready_channel(request: GenerationRequest) -> str:
    return f"{weight_key(request)}:ready"


def _lease_key(request: GenerationRequest) -> str:
    return f"{weight_key(request)}:generating"


def _failure_key(request: GenerationRequest) -> str:
    return f"{weight_key(request)}:failed"
