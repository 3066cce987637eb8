"""``Idempotency-Key``: the same request sent twice makes one job; a different one under the same key is refused."""

import hashlib
import re
import time

from unet_factory.domain.errors import JobUnknown, MalformedRequest
from unet_factory.domain.jobs import Job
from unet_factory.jobs.store import JobStore
from unet_factory_service.errors import IdempotencyConflict

_KEY = re.compile(r"[\x21-\x7e]{1,255}")
RECORDED_WITHIN_S = 5.0
_POLL_S = 0.05


def storage_key(header: str, key_id: str | None = None) -> str:
    """The caller's key as it is stored: a hash, since it is the caller's text; apart from that of other API keys.

    Raises:
        MalformedRequest: empty, too long, or not printable ASCII.
    """
    if not _KEY.fullmatch(header):
        raise MalformedRequest("the Idempotency-Key must be 1 to 255 printable ASCII characters without spaces")
    return hashlib.sha256(f"{key_id or ''} {header}".encode()).hexdigest()


def reserve(jobs: JobStore, key: str, fingerprint: str, job_id: str, ttl_s: float) -> Job | None:
    """None when the key is now this job's; else the job of the earlier request of the same content.

    An earlier request that reserved the key but did not record its job within some seconds has died, and is replaced.

    Raises:
        IdempotencyConflict: the key stands for another content.
        JobExpired: the earlier job was purged.
    """
    deadline = time.monotonic() + RECORDED_WITHIN_S
    while True:
        earlier_fingerprint, earlier_id = jobs.remember(key, fingerprint, job_id, ttl_s)
        if earlier_id == job_id:
            return None
        if earlier_fingerprint != fingerprint:
            raise IdempotencyConflict(
                "this Idempotency-Key was used for another file or other parameters; use a new one"
            )
        try:
            return jobs.get(earlier_id)
        except JobUnknown:
            if time.monotonic() > deadline:
                jobs.forget(key, earlier_id)
            time.sleep(_POLL_S)
