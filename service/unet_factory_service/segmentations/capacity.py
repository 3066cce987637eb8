"""Whether there is room for one more job: in the queue, and within what its caller may have."""

from unet_factory_service.access.callers import ANYBODY, Caller
from unet_factory_service.dependencies import GatewayContext
from unet_factory_service.errors import QueueFull, QuotaExceeded

_JOBS_RETRY_AFTER_S = 5
_ROOM_RETRY_AFTER_S = 60


def check_capacity(gateway: GatewayContext, caller: Caller = ANYBODY) -> None:
    """
    Raises:
        QueueFull: as many jobs as are allowed are waiting or running.
        QuotaExceeded: as many of the caller's, or as much is stored for the caller as is allowed.
    """
    if 0 < caller.jobs_in_flight <= gateway.jobs.count_of(caller.owner):
        raise too_many_jobs(caller)
    if 0 < caller.stored_bytes <= gateway.jobs.stored_bytes(caller.owner):
        raise too_much_stored(gateway, caller)
    active, allowed = gateway.jobs.count_active(), gateway.settings.max_queued_jobs
    if active >= allowed:
        raise QueueFull(f"{active} jobs are waiting or running, and at most {allowed} are allowed", allowed=allowed)


def too_many_jobs(caller: Caller) -> QuotaExceeded:
    """The refusal of one more job than the caller may have at a time."""
    return QuotaExceeded(
        f"this API key may have at most {caller.jobs_in_flight} jobs waiting or running; try again when one has ended",
        quota="jobs-in-flight",
        limit=caller.jobs_in_flight,
        retry_after_s=_JOBS_RETRY_AFTER_S,
    )


def too_much_stored(gateway: GatewayContext, caller: Caller, wanted_bytes: int = 0) -> QuotaExceeded:
    """The refusal of ``wanted_bytes`` more; what is deleted makes room at once."""
    used, allowed = gateway.jobs.stored_bytes(caller.owner), caller.stored_bytes
    more = f"{wanted_bytes} more are too many" if wanted_bytes else "none are left"
    return QuotaExceeded(
        f"this API key may have {allowed} bytes stored; {used} are, and {more}; delete segmentations that are not"
        " needed any more",
        quota="stored-bytes",
        limit=allowed,
        used=used,
        retry_after_s=_ROOM_RETRY_AFTER_S,
    )
