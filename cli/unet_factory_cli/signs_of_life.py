"""Listening for a process's signs of life: one that hangs or is stopped does not die, it only falls silent."""

import socket
import time
from pathlib import Path

from unet_factory.platform.signs_of_life import SOCKET_VARIABLE

_LONGEST_MESSAGE_BYTES = 4096


class SignsOfLife:
    """Of one process at a time, on a socket at ``address``; a process counts as silent only after its first sign.

    Until then it starts, which may take long: models are loaded.
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
