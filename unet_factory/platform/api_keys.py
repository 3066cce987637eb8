"""API keys: who may do what, made and changed by an operator, looked up at every request, so a change holds at once.

Redis keys: ``apikey:ID`` (JSON, hashes of secrets in it), ``apikeys`` (set of the ids). They lie with the jobs: every
gateway sees them, and they last as the jobs do.

A key as its holder has it reads ``unf_ID_SECRET``. Of the secret only its SHA-256 is kept. A slow hash would protect
what people choose; nobody can search the 256 random bits of a secret, and each request has to be checked.
"""

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum
from typing import Any, NamedTuple

from pydantic import Field
from redis import Redis
from redis.exceptions import WatchError

from unet_factory.domain.errors import ApiKeyInvalid, ApiKeyUnknown
from unet_factory.domain.frozen import Frozen

_ALL = "apikeys"
_TOKEN = re.compile(r"unf_([0-9a-f]{12})_([0-9a-f]{64})")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}")


class Scope(StrEnum):
    """What a key is for."""

    SEGMENT = "segment"
    WEIGHTS = "weights"
    READ = "read"
    ADMIN = "admin"

    @property
    def grants(self) -> frozenset["Scope"]:
        """Who submits scans reads their results; an administrator may do everything."""
        if self is Scope.ADMIN:
            return frozenset(Scope)
        return frozenset({self, Scope.READ} if self is Scope.SEGMENT else {self})


class KeySecret(Frozen):
    """One of a key's secrets; times in seconds since the epoch."""

    sha256: str
    created: float
    expires: float | None = Field(default=None, description="it was replaced by rotation, and is valid until then")

    def holds(self, now: float) -> bool:
        return self.expires is None or now < self.expires


class ApiKey(Frozen):
    """Jobs belong to ``owner``: the key's own id, or that of the key whose jobs it shares. Times since the epoch."""

    id: str
    name: str = Field(description="the operator's word for its holder")
    scopes: tuple[Scope, ...]
    owner: str
    secrets: tuple[KeySecret, ...]
    created: float
    expires: float | None = None
    revoked: float | None = None
    requests_per_minute: int | None = Field(default=None, description="the gateway's default when absent; 0: any")
    jobs_in_flight: int | None = Field(default=None, description="the gateway's default when absent; 0: any")
    stored_bytes: int | None = Field(default=None, description="the gateway's default when absent; 0: any")

    def valid(self, now: float) -> bool:
        return self.revoked is None and (self.expires is None or now < self.expires)

    def accepts(self, token: str, now: float) -> bool:
        """Whether ``token`` is this key, and holds; takes as long whatever is wrong with its secret."""
        digest = _digest(token)
        same = [hmac.compare_digest(secret.sha256, digest) and secret.holds(now) for secret in self.secrets]
        return any(same) and self.valid(now)

    def allows(self, scope: Scope) -> bool:
        return any(scope in own.grants for own in self.scopes)


class NewKey(NamedTuple):
    """``token`` is shown once: it cannot be had again."""

    key: ApiKey
    token: str


class KeyStore:
    """Synchronous; safe to share between threads."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def create(
        self,
        name: str,
        scopes: tuple[Scope, ...],
        *,
        shares_jobs_of: str | None = None,
        expires: float | None = None,
        requests_per_minute: int | None = None,
        jobs_in_flight: int | None = None,
        stored_bytes: int | None = None,
    ) -> NewKey:
        """
        Raises:
            ApiKeyInvalid: the name is not allowed, or there is no scope.
            ApiKeyUnknown: there is no key ``shares_jobs_of``.
        """
        if not _NAME.fullmatch(name):
            raise ApiKeyInvalid(f"{name[:100]!r} must be 1 to 64 letters, digits, spaces and . _ -")
        if not scopes:
            raise ApiKeyInvalid(f"name at least one scope of {', '.join(Scope)}")
        key_id, now = secrets.token_hex(6), time.time()
        token, secret = _new_secret(key_id, now)
        key = ApiKey(
            id=key_id,
            name=name,
            scopes=scopes,
            owner=key_id if shares_jobs_of is None else self.get(shares_jobs_of).owner,
            secrets=(secret,),
            created=now,
            expires=expires,
            requests_per_minute=requests_per_minute,
            jobs_in_flight=jobs_in_flight,
            stored_bytes=stored_bytes,
        )
        with self._redis.pipeline(transaction=True) as pipeline:
            pipeline.set(_key(key_id), key.model_dump_json())
            pipeline.sadd(_ALL, key_id)
            pipeline.execute()
        return NewKey(key, token)

    def get(self, key_id: str) -> ApiKey:
        """
        Raises:
            ApiKeyUnknown: no key has that id.
        """
        return _parsed(self._redis.get(_key(key_id)), key_id)

    def all(self) -> list[ApiKey]:
        """Revoked and expired ones too, the oldest first."""
        ids: Any = self._redis.smembers(_ALL)
        return sorted((self.get(raw.decode()) for raw in ids), key=lambda key: key.created)

    def named_in(self, token: str) -> ApiKey | None:
        """The key that ``token`` claims to be; whether it is, :meth:`ApiKey.accepts` tells."""
        found = _TOKEN.fullmatch(token)
        value: Any = None if found is None else self._redis.get(_key(found[1]))
        return None if value is None else ApiKey.model_validate_json(value)

    def revoke(self, key_id: str) -> ApiKey:
        """End it now, for good. Its jobs stay, for who shares them and for administrators. Raises as :meth:`get`."""
        return self._change(key_id, lambda key: key.model_copy(update={"revoked": key.revoked or time.time()}))

    def rotate(self, key_id: str, overlap_s: float) -> NewKey:
        """Give it another secret; the present one holds for ``overlap_s`` more seconds. Its id and jobs stay.

        Raises:
            ApiKeyInvalid: it is revoked or has expired.
            ApiKeyUnknown: no key has that id.
        """
        now = time.time()
        token, fresh = _new_secret(key_id, now)

        def renew(key: ApiKey) -> ApiKey:
            if not key.valid(now):
                raise ApiKeyInvalid(f"the key {key_id} is revoked or has expired; create another")
            ends = now + overlap_s
            old = [
                secret.model_copy(update={"expires": min(ends, secret.expires or ends)})
                for secret in key.secrets
                if overlap_s > 0 and secret.holds(now)
            ]
            return key.model_copy(update={"secrets": (fresh, *old)})

        return NewKey(self._change(key_id, renew), token)

    def _change(self, key_id: str, change: Callable[[ApiKey], ApiKey]) -> ApiKey:
        """Tried again where another change came between."""
        with self._redis.pipeline(transaction=True) as pipeline:
            while True:
                pipeline.watch(_key(key_id))  # type: ignore[no-untyped-call]
                changed = change(_parsed(pipeline.get(_key(key_id)), key_id))
                pipeline.multi()
                pipeline.set(_key(key_id), changed.model_dump_json())
                with suppress(WatchError):
                    pipeline.execute()
                    return changed


def _new_secret(key_id: str, now: float) -> tuple[str, KeySecret]:
    token = f"unf_{key_id}_{secrets.token_hex(32)}"
    return token, KeySecret(sha256=_digest(token), created=now)


def _digest(token: str) -> str:
    """Of the whole token, so that a secret holds for its own id alone."""
    return hashlib.sha256(token.encode()).hexdigest()


def _parsed(value: Any, key_id: str) -> ApiKey:
    if value is None:
        raise ApiKeyUnknown(f"there is no API key {key_id[:100]!r}")
    return ApiKey.model_validate_json(value)


def _key(key_id: str) -> str:
    return f"apikey:{key_id}"
