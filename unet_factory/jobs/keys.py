"""The names in Redis that more than one module, or a Lua script, knows. ``lua/keys.lua`` says the same to the scripts.

| key | type | holds |
|---|---|---|
| ``job:ID`` | hash | the job's record: JSON by field, and its deliveries (see :func:`delivery_field`) |
| ``job:ID:lease`` | string | who works on it; ends by itself |
| ``job:ID:gone`` | string | after a purge, for a week: whose it was |
| ``jobs:active`` | sorted set | jobs that have not ended, by when they were last sent or claimed |
| ``jobs:expiry`` | sorted set | all jobs, by when they are to be purged |
| ``jobs:uploads`` | sorted set | jobs that have ended and still have their upload, by when they ended |
| ``jobs:of:OWNER`` | sorted set | the owner's jobs that have not ended |
| ``jobs:listed:OWNER`` | sorted set | all the owner's jobs until they are purged, by when they were accepted |
| ``stored:of:OWNER`` | hash | bytes of what is stored for the owner: by job id and by received series |
| ``jobs:purged`` | string | set by a purge, until the server has dropped the past from its own files |
| ``idempotency:KEY`` | string | fingerprint and job of the request that was first sent with the key |
| ``networks:being-made`` | hash | networks that were ordered, by their key: until when that counts, and whose order |
| ``networks:of:OWNER`` | sorted set | the networks that the owner ordered, by when |
| ``dicom:results`` | hash | jobs whose scan was DICOM, with a digest of their study, which the gateway adds |
| ``outbox:due:KIND:DESTINATION`` | sorted set | deliveries, by the time of their next attempt |
| ``outbox:queues`` | set | those of the above that may hold something |
| ``outbox:lease:ID`` | string | which attempt has a delivery in hand; ends by itself |
| ``outbox:dead`` | sorted set | deliveries that were given up, by when |

Stored data keeps the names ``errand`` and ``outbox``, which deliveries had before. Times are the server's, in seconds
since the epoch, so that processes whose clocks differ agree.
"""

from unet_factory.domain.jobs import Delivery

ACTIVE = "jobs:active"
EXPIRY = "jobs:expiry"
UPLOADS = "jobs:uploads"
PURGED = "jobs:purged"
DICOM_RESULTS = "dicom:results"
DELIVERY_QUEUES = "outbox:queues"
DEAD_DELIVERIES = "outbox:dead"

ENDED = b"ended"
FETCH = "fetch"
_DELIVERY_FIELD = "errand."


def job_key(job_id: str) -> str:
    return f"job:{job_id}"


def lease_key(job_id: str) -> str:
    return f"job:{job_id}:lease"


def tombstone_key(job_id: str) -> str:
    return f"job:{job_id}:gone"


def events_channel(job_id: str) -> str:
    """Something is published here whenever the job's record changes, and :data:`ENDED` when it ends or is purged."""
    return f"job:{job_id}:events"


def owner_key(owner: str) -> str:
    return f"jobs:of:{owner}"


def listing_key(owner: str) -> str:
    return f"jobs:listed:{owner}"


def stored_key(owner: str) -> str:
    return f"stored:of:{owner}"


def idempotency_key(key: str) -> str:
    return f"idempotency:{key}"


def delivery_field(name: str) -> str:
    """The field of a job's hash for its fetch (``fetch``) or one of its deliveries (a number)."""
    return _DELIVERY_FIELD + name


def delivery_name(field: str) -> str | None:
    """Undoes :func:`delivery_field`; None for another field."""
    return field.removeprefix(_DELIVERY_FIELD) if field.startswith(_DELIVERY_FIELD) else None


def delivery_queue(delivery: Delivery) -> str:
    return f"outbox:due:{delivery.kind}:{delivery.destination}"


def delivery_lease_key(delivery_id: str) -> str:
    return f"outbox:lease:{delivery_id}"
