"""The factory as separate processes behind proxies: two gateways, two workers, courier, listener and both stores.

A role that ends by itself is started again, as a service manager does; what a fault has taken down stays down until
the fault ends. Processes die with the thread that started them, so all of this belongs to the main thread.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from tests.fixtures.webhook_receiver import SECRET
from tests.system.processes import free_port
from tests.system.serve_process import environment
from tests.torture.history import History
from tests.torture.inputs import MODEL
from tests.torture.proxy import Link, Proxies
from unet_factory_cli.disk_reserve import DiskReserve
from unet_factory_cli.embedded import CACHE_OPTIONS, JOBS_OPTIONS, EmbeddedServer
from unet_factory_cli.processes import Watchdog, die_with_parent, kill_group

LISTENER_TITLE = "UNETFACTORY"
WORKERS, GATEWAYS = ("worker-1", "worker-2"), ("gateway-1", "gateway-2")
STORES = ("jobs-store", "cache-store")

SILENCE_S, LEASE_S = 20.0, 4.0

_STARTED_AGAIN_AFTER_S = 0.5
_QUIET_S = 1.0
_AFTER_ABORT_S = 15.0


@dataclass
class Role:
    """One process with its children. ``held``: a fault has taken it down or stopped it, and will give it back."""

    name: str
    launch: Callable[[], "subprocess.Popen[bytes]"]
    process: "subprocess.Popen[bytes] | None" = None
    held: bool = False
    died_at: float | None = None

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        self.process, self.died_at = self.launch(), None

    def kill(self) -> None:
        """With its children, and without a chance to clean up."""
        if self.process is not None:
            kill_group(self.process)

    def signal(self, number: signal.Signals) -> None:
        """To it and its children."""
        if self.process is not None and self.running:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)

    def ask_to_end(self) -> None:
        """SIGTERM to the parent alone."""
        if self.process is not None and self.running:
            self.process.terminate()


@dataclass
class Cluster:
    """``links``: by (role, what it talks to)."""

    folder: Path
    history: History
    watchdog: Watchdog
    roles: dict[str, Role] = field(default_factory=dict)
    links: dict[tuple[str, str], Link] = field(default_factory=dict)
    gateway_ports: list[int] = field(default_factory=list)
    listener_port: int = 0
    clock_file: Path | None = None

    @property
    def disk(self) -> Path:
        """What may become full: the jobs' journal, uploads and results."""
        return self.folder / "disk"

    @property
    def destinations_url(self) -> str:
        """Where couriers reach the receivers."""
        return f"http://127.0.0.1:{self.links['courier', 'destinations'].listens_at}"

    @property
    def models(self) -> Path:
        return self.folder / "models"

    @property
    def jobs_folder(self) -> Path:
        return self.disk / "jobs"

    @property
    def cache_folder(self) -> Path:
        return self.folder / "cache"

    @property
    def blobs(self) -> Path:
        return self.disk / "blobs"

    @property
    def spool(self) -> Path:
        return self.folder / "spool"

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    def start(self) -> None:
        for role in self.roles.values():
            role.start()
            self._guard(role)

    def start_again(self, role: Role) -> None:
        """Its launch may fail, as that of a store on a full disk; then it is tried again by :meth:`tend`."""
        try:
            role.start()
        except RuntimeError:
            role.died_at = time.monotonic()
        else:
            self._guard(role)

    def tend(self) -> None:
        """Start again what has ended by itself."""
        DiskReserve(self.jobs_folder).hold()
        for role in self.roles.values():
            if role.held or role.running:
                continue
            if role.died_at is None:
                role.died_at = time.monotonic()
                status = role.process.returncode if role.process else None
                self.history.note("supervisor", "ended-by-itself", role=role.name, status=status)
                role.kill()  # what is left of its group
            elif time.monotonic() - role.died_at > _STARTED_AGAIN_AFTER_S:
                self.start_again(role)

    def stop(self) -> None:
        for role in self.roles.values():
            role.signal(signal.SIGCONT)
            role.kill()

    def _guard(self, role: Role) -> None:
        assert role.process is not None
        self.watchdog.guard(role.process)


@contextmanager
def cluster(
    folder: Path, receivers_port: int, history: History, proxies: Proxies, **settings: object
) -> Iterator[Cluster]:
    """All roles started; ended after the block."""
    with Watchdog() as watchdog:
        made = _Builder(Cluster(folder, history, watchdog), receivers_port, proxies, settings).build()
        try:
            made.start()
            yield made
        finally:
            made.stop()


@dataclass
class _Builder:
    cluster: Cluster
    receivers_port: int
    proxies: Proxies
    settings: dict[str, object]

    def build(self) -> Cluster:
        made = self.cluster
        for folder in (made.jobs_folder, made.cache_folder, made.logs, made.folder / "links"):
            folder.mkdir(parents=True)
        self._store("jobs-store", made.jobs_folder, JOBS_OPTIONS)
        self._store("cache-store", made.cache_folder, CACHE_OPTIONS)
        self._write_configuration()
        for name in GATEWAYS:
            port = free_port()
            made.gateway_ports.append(self._to_port(name, "clients", port))
            self._role(name, "gateway", "--host", "127.0.0.1", "--port", str(port))
        for name in WORKERS:
            self._role(name, "worker", **(self._faked_clock() if name == WORKERS[-1] else {}))
        self._role("courier", "courier", WEBHOOK_SECRET=SECRET)
        self._listener(made.gateway_ports[0])
        return made

    def _store(self, name: str, folder: Path, options: dict[str, str]) -> None:
        self.cluster.roles[name] = Role(name, lambda: EmbeddedServer.start(folder, options).process)

    def _role(self, name: str, *arguments: str, **variables: str) -> None:
        command = [sys.executable, "-m", "unet_factory_cli", *arguments]
        given = environment(**self._settings_of(name)) | variables
        log = self.cluster.logs / f"{name}.log"

        def launch() -> "subprocess.Popen[bytes]":
            with log.open("ab") as output:
                return subprocess.Popen(
                    command,
                    env=given,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    process_group=0,
                    preexec_fn=die_with_parent,
                )

        self.cluster.roles[name] = Role(name, launch)

    def _listener(self, gateway_port: int) -> None:
        made = self.cluster
        made.listener_port = free_port()
        gateway = self._to_port("listener", "gateway", gateway_port)
        where = ["--port", str(made.listener_port), "--spool", str(made.spool), "--url", f"http://127.0.0.1:{gateway}"]
        times = ["--quiet", str(_QUIET_S), "--after-abort", str(_AFTER_ABORT_S)]
        self._role("listener", "dicom-listen", "--ae-title", LISTENER_TITLE, "--allow", "*", *where, *times)

    def _settings_of(self, name: str) -> dict[str, object]:
        made = self.cluster
        return {
            "redis_url": self._to_store(name, "jobs", made.jobs_folder),
            "cache_url": self._to_store(name, "cache", made.cache_folder),
            "blob_url": made.blobs.as_uri(),
            "models_dir": made.models,
            "destinations": made.folder / "destinations.yml",
            "routing": made.folder / "routing.yml",
            "audit_log": made.folder / "audit.log",
            "device": "cpu",
            "threads": 1,
            "precision": "float32",
            "calibrate": False,
            "device_cache_networks": 1,
            "networks_in_memory_bytes": 0,
            "lease_s": LEASE_S,
            "silence_s": SILENCE_S,
            "presence_s": 3,
            "maintenance_interval_s": 0.5,
            "series_quiet_s": _QUIET_S,
            "delivery_backoff_s": 0.2,
            "delivery_backoff_max_s": 2,
            "stop_grace_s": 5,
            **self.settings,
        }

    def _to_store(self, name: str, store: str, folder: Path) -> str:
        link = (name, store)
        if link not in self.cluster.links:
            socket = self.cluster.folder / "links" / f"{name}-{store}"
            target = Path(EmbeddedServer.url_in(folder).removeprefix("unix://"))
            self.cluster.links[link] = self.proxies.link(socket, target)
        return f"unix://{self.cluster.links[link].listens_at}"

    def _to_port(self, name: str, other: str, port: int) -> int:
        listens_at = free_port()
        self.cluster.links[name, other] = self.proxies.link(listens_at, port)
        return listens_at

    def _write_configuration(self) -> None:
        self._to_port("courier", "destinations", self.receivers_port)
        archive = {"dicomweb": {"url": f"{self.cluster.destinations_url}/dicom-web", "timeout_s": 5}}
        hooks = {"allow": ["127.0.0.1"], "schemes": ["http"], "secrets": [{"env": "WEBHOOK_SECRET"}], "timeout_s": 5}
        destinations = {"pacs": {"archive": archive}, "webhooks": hooks}
        routing = {"rules": [{"match": {"modality": "MR"}, "model": MODEL, "send_to": ["archive"]}]}
        (self.cluster.folder / "destinations.yml").write_text(yaml.safe_dump(destinations))
        (self.cluster.folder / "routing.yml").write_text(yaml.safe_dump(routing))

    def _faked_clock(self) -> dict[str, str]:
        """Variables with which a process's clock is read from a file; nothing without libfaketime."""
        library = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
        if library is None:
            return {}
        self.cluster.clock_file = self.cluster.folder / "clock"
        self.cluster.clock_file.write_text("+0s")
        return {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(self.cluster.clock_file),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
            "PYTHONPATH": str(Path(__file__).parent / "shifted_clock"),
        }
