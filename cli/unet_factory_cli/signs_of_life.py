"""Signs of life of a process: one that hangs or is stopped does not die, it only falls silent."""

import socket
import time
from pathlib import Path

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import BusyLoadingError, RedisError, ResponseError
from redis.retry import Retry

from unet_factory.platform.signs_of_life import SOCKET_VARIABLE

_LONGEST_MESSAGE_BYTES = 4096
_ASK_EVERY_S = 1.0
_ANSWERS_WITHIN_S = 0.2


class SignsOfLife:
    """Those that one process at a time sends to a socket at ``address``.

    It counts as silent only after its first sign. Until then it starts, which may take long: models are loaded.
    """

    def __init__(self, address: Path, silence_s: float) -> None:
        self.silence_s = silence_s
        self._address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind(str(address))
        self._heard_at: float | None = None

    @property
    def environment(self) -> dict[str, str]:
        """What tells the process where to send its signs."""
        return {SOCKET_VARIABLE: str(self._address)}

    def begin(self) -> None:
        """A new process starts."""
        self._hear()
        self._heard_at = None

    def silent(self) -> bool:
        """Whether the last sign is ``silence_s`` old."""
        if self._hear():
            self._heard_at = time.monotonic()
        return self._heard_at is not None and time.monotonic() - self._heard_at > self.silence_s

    def close(self) -> None:
        self._socket.close()

    def _hear(self) -> bool:
        heard = False
        while True:
            try:
                self._socket.recv(_LONGEST_MESSAGE_BYTES)
            except BlockingIOError:
                return heard
            heard = True


class Answers:
    """Those of a Redis server: that it answers. One that loads its data, or refuses, lives, too."""

    def __init__(self, redis_url: str, silence_s: float) -> None:
        self.silence_s = silence_s
        self._redis = Redis.from_url(
            redis_url,
            socket_timeout=_ANSWERS_WITHIN_S,
            socket_connect_timeout=_ANSWERS_WITHIN_S,
            retry=Retry(NoBackoff(), 0),
        )
        self._asked_at = self._heard_at = time.monotonic()

    def begin(self) -> None:
        """A new server starts."""
        self._asked_at = self._heard_at = time.monotonic()

    def silent(self) -> bool:
        """Whether the last answer is ``silence_s`` old."""
        now = time.monotonic()
        if now - self._asked_at >= _ASK_EVERY_S:
            self._asked_at = now
            if self._answers():
                self._heard_at = now
        return now - self._heard_at > self.silence_s

    def close(self) -> None:
        self._redis.close()

    def _answers(self) -> bool:
        try:
            self._redis.ping()
        except (BusyLoadingError, ResponseError):
            return True
        except RedisError:
            return False
        return True
