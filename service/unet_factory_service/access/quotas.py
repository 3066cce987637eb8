"""How much one API key may ask for: requests in a minute, jobs at a time."""

import logging
import math
import time
from typing import Any

from redis import Redis
from redis.exceptions import OutOfMemoryError

from unet_factory.platform.api_keys import ApiKey
from unet_factory_service.errors import QuotaExceeded
from unet_factory_service.settings import GatewaySettings

log = logging.getLogger(__name__)

_PREFIX = "quota"


class RequestQuota:
    """Counted in Redis, over all gateways, in a window that moves: at no time were there more in the last minute."""

    def __init__(self, redis: Redis, settings: GatewaySettings) -> None:
        self._redis, self._default = redis, settings.key_requests_per_minute
        self._limiter: Any = None

    def take(self, key: ApiKey) -> None:
        """Count one request. Without room to count it, it is let through: it may be the one that frees room.

        Raises:
            QuotaExceeded: it says when the next one may come.
        """
        allowed = self._default if key.requests_per_minute is None else key.requests_per_minute
        if not allowed:
            return
        from limits import RateLimitItemPerMinute  # an eighth of the gateway's start, of use to none without keys

        item = RateLimitItemPerMinute(allowed)
        try:
            counted = self._window.hit(item, key.id)
        except OutOfMemoryError:
            log.warning("a request was not counted: the job store is full")
            return
        if not counted:
            raise _too_many(allowed, self._window.get_window_stats(item, key.id).reset_time)

    @property
    def _window(self) -> Any:
        if self._limiter is None:
            from limits.storage.redis import RedisStorage
            from limits.strategies import MovingWindowRateLimiter

            storage = RedisStorage("redis://", connection_pool=self._redis.connection_pool, key_prefix=_PREFIX)
            self._limiter = MovingWindowRateLimiter(storage)
        return self._limiter


def _too_many(allowed: int, free_at: float) -> QuotaExceeded:
    wait_s = max(1, math.ceil(free_at - time.time()))
    return QuotaExceeded(
        f"this API key may send {allowed} requests per minute; send the next one in {wait_s} s",
        quota="requests-per-minute",
        limit=allowed,
        retry_after_s=wait_s,
    )
