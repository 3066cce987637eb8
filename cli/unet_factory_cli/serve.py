"""``unet-factory serve``: the whole factory on one machine, under one process that nothing outlives."""

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import FrameType

from unet_factory.platform.model_registry import ModelRegistry
from unet_factory.platform.private_files import OWNER_ONLY, make_private, owner_only
from unet_factory.platform.settings import Settings
from unet_factory_cli.disk_reserve import DiskReserve
from unet_factory_cli.embedded import CACHE_OPTIONS, JOBS_OPTIONS, EmbeddedServer
from unet_factory_cli.failures import MISUSED, CommandFailed, say
from unet_factory_cli.processes import Watchdog, die_with_parent
from unet_factory_cli.runtime_folder import runtime_folder
from unet_factory_cli.settings import operators_redis, read_settings
from unet_factory_cli.signs_of_life import Answers, SignsOfLife
from unet_factory_cli.supervision import Component, Supervisor
from unet_factory_cli.worker_places import METRICS_PORT, visible_gpus, worker_places
from unet_factory_service.settings import GatewaySettings

READY_TIMEOUT_S = 180.0

REDIS_URL = "UNET_FACTORY_REDIS_URL"

# Of a data folder; metrics: of earlier versions.
_CONTENTS = {"audit.log", "blobs", "cache", "jobs", "lock", "metrics", "shared-weights"}

_TEND_EVERY_S = 0.2
_LOOK_EVERY_S = 0.1  # until everything is ready
_GATEWAY_PATIENCE_S = 4.0
_WORKER_GRACE_S = 3.0  # for the job in hand; one that takes longer is taken up again by its lease
_WORKER_PATIENCE_S = 5.0
_SERVER_PATIENCE_S = 4.0


@dataclass(frozen=True)
class ServeOptions:
    """``data_dir`` holds everything that lasts: the jobs and their files."""

    host: str
    port: int
    data_dir: Path
    models_dir: Path
    workers: int = 1

    @property
    def url(self) -> str:
        """Where this machine reaches the gateway."""
        reachable = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104
        return f"http://[{reachable}]:{self.port}" if ":" in reachable else f"http://{reachable}:{self.port}"


def serve(options: ServeOptions) -> None:
    """Run until SIGINT, SIGTERM or SIGHUP.

    Raises:
        CommandFailed: the port or the data folder is taken, there is no model, or the system does not become ready.
        DestinationsInvalid, RoutingInvalid, ModelUnknown: a file or a model that the settings name cannot be used.
    """
    settings = read_settings(GatewaySettings)
    _check_files(_models(options.models_dir, settings.default_model), settings)
    _check_port(options)
    with (
        owner_only(),
        sole_user(options.data_dir),
        _stop_signals() as stop,
        Watchdog() as watchdog,
        runtime_folder(options.data_dir) as runtime,
    ):
        supervisor = Supervisor(_stages(options, runtime), watchdog, say)
        try:
            supervisor.start()
            say(f"starting at {options.url} (data in {options.data_dir})")
            _run(options, supervisor, stop)
        finally:
            supervisor.stop()
            shutil.rmtree(_weights_folder(options), ignore_errors=True)
            if _has_own_servers():
                for folder in (jobs_folder(options.data_dir), cache_folder(options.data_dir)):
                    EmbeddedServer.sweep(folder)
    say("stopped")


def _run(options: ServeOptions, supervisor: Supervisor, stop: threading.Event) -> None:
    from unet_factory_client import FactoryClient  # while the roles start

    deadline = time.monotonic() + READY_TIMEOUT_S
    ready = False
    reserve = DiskReserve(jobs_folder(options.data_dir)) if _has_own_servers() else None
    with FactoryClient(options.url) as client:
        while not stop.wait(_TEND_EVERY_S if ready else _LOOK_EVERY_S):
            supervisor.tend()
            if reserve is not None:
                reserve.hold()
            if ready:
                continue
            ready = client.ready()
            if ready:
                supervisor.ready()
                _say_how_to_get_in(options)
                say(f"ready: {options.url}")
            elif time.monotonic() > deadline:
                raise CommandFailed(f"{options.url}/readyz did not become ready within {READY_TIMEOUT_S:g} s")


def _say_how_to_get_in(options: ServeOptions) -> None:
    if read_settings(GatewaySettings).requires_authentication(options.host):
        where = f" --data-dir {options.data_dir}" if _has_own_servers() else ""
        say(f"API keys are required; make one with: unet-factory keys create NAME --scope segment{where}")


def _stages(options: ServeOptions, runtime: Path) -> list[list[Component]]:
    """What runs, in the order of starting; servers of our own only where the operator names none."""
    silence_s = read_settings(Settings).silence_s
    environment = _environment(options, runtime)
    servers: list[Component] = []
    if _has_own_servers():
        jobs, cache = jobs_folder(options.data_dir), cache_folder(options.data_dir)
        servers = [
            _server("job server", jobs, JOBS_OPTIONS, silence_s),
            _server("cache server", cache, CACHE_OPTIONS, silence_s),
        ]
        environment[REDIS_URL] = EmbeddedServer.url_in(jobs)
        environment["UNET_FACTORY_CACHE_URL"] = EmbeddedServer.url_in(cache)

    def role(command: list[str], patience_s: float, name: str = "", **own: str) -> Component:
        name = name or command[0]
        signs = SignsOfLife(runtime / name.replace(" ", "-"), silence_s)
        return _program(name, command, environment | own, patience_s, signs)

    def worker(number: int, place: dict[str, str]) -> Component:
        name = f"worker {number}" if options.workers > 1 else "worker"
        return role(["worker"], _WORKER_PATIENCE_S, name, **place)

    places = worker_places(options.workers, environment, visible_gpus)
    courier = [role(["courier"], _WORKER_PATIENCE_S, **{METRICS_PORT: "0"})] if _has_destinations() else []
    gateway = role(["gateway", "--host", options.host, "--port", str(options.port)], _GATEWAY_PATIENCE_S)
    return [servers, [*map(worker, count(1), places), *courier], [gateway]]


def _has_own_servers() -> bool:
    return operators_redis() is None


def _has_destinations() -> bool:
    """Without any there is nothing for a courier to do."""
    return bool(os.environ.get("UNET_FACTORY_DESTINATIONS"))


def jobs_folder(data_dir: Path) -> Path:
    """Where the job server keeps its data."""
    return data_dir / "jobs"


def cache_folder(data_dir: Path) -> Path:
    """Where the cache server has its socket."""
    return data_dir / "cache"


def _weights_folder(options: ServeOptions) -> Path:
    """What several workers map the weights from; on the disk, as a temporary folder in memory may be too small."""
    return options.data_dir.resolve() / "shared-weights"


def _environment(options: ServeOptions, runtime: Path) -> dict[str, str]:
    """What the roles read; files of the operator's choice stay."""
    metrics = runtime / "metrics"
    metrics.mkdir()
    shared = {"UNET_FACTORY_SHARED_WEIGHTS_DIR": str(_weights_folder(options))} if options.workers > 1 else {}
    return {
        **shared,
        "UNET_FACTORY_BLOB_URL": (options.data_dir.resolve() / "blobs").as_uri(),
        "UNET_FACTORY_AUDIT_LOG": str(options.data_dir.resolve() / "audit.log"),
        **os.environ,
        "UNET_FACTORY_MODELS_DIR": str(options.models_dir.resolve()),
        "UNET_FACTORY_STOP_GRACE_S": str(_WORKER_GRACE_S),
        "PROMETHEUS_MULTIPROC_DIR": str(metrics),
    }


def _server(name: str, folder: Path, settings: dict[str, str], silence_s: float) -> Component:
    def start() -> "subprocess.Popen[bytes]":
        return EmbeddedServer.start(folder, settings).process

    return Component(name, start, _SERVER_PATIENCE_S, Answers(EmbeddedServer.url_in(folder), silence_s))


def _program(
    name: str, arguments: list[str], environment: dict[str, str], patience_s: float, signs: SignsOfLife
) -> Component:
    def start() -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "unet_factory_cli", *arguments]
        return subprocess.Popen(
            command,
            env=environment | signs.environment,
            stdin=subprocess.DEVNULL,
            process_group=0,
            preexec_fn=die_with_parent,
        )

    return Component(name, start, patience_s, signs)


def _models(folder: Path, default: str) -> ModelRegistry:
    registry = ModelRegistry.scan(folder, default)
    if not registry.all():
        raise CommandFailed(
            f"there is no model (*.safetensors) in {folder.resolve()}, and none is installed;"
            " name a folder with --models, or: pip install 'unet-factory[models]'",
            MISUSED,
        )
    return registry


def _check_files(registry: ModelRegistry, settings: GatewaySettings) -> None:
    """As the roles do, which would each be started several times before their mistake is taken for final."""
    if settings.destinations is None and settings.routing is None:
        return
    from unet_factory.destinations import Destinations  # takes a while
    from unet_factory_service.dicomweb.routing import read_routing

    read_routing(settings.routing, registry, Destinations.load(settings.destinations))


def _check_port(options: ServeOptions) -> None:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(options.host, options.port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        reason = error.strerror.lower() if error.strerror else error
        raise CommandFailed(
            f"cannot listen on {options.host}:{options.port}: {reason}; choose another --port"
        ) from error


@contextmanager
def sole_user(data_dir: Path) -> Iterator[None]:
    """Hold the data folder; the kernel lets go of it when this process ends, however it ends."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=OWNER_ONLY)
        if {path.name for path in data_dir.iterdir()} <= _CONTENTS:  # else it is not ours alone to close
            make_private(data_dir)
        for name in _CONTENTS:
            make_private(data_dir / name)
        file = (data_dir / "lock").open("a+b", buffering=0)
    except OSError as error:
        raise CommandFailed(f"the data folder {data_dir} cannot be used: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().decode().strip() or "unknown"
            raise CommandFailed(
                f"{data_dir} is in use by another `unet-factory serve` (process {holder}); choose another --data-dir"
            ) from None
        with suppress(OSError):  # on a full disk the lock holds, and only does not say whose it is
            file.truncate(0)
            file.write(f"{os.getpid()}\n".encode())
        yield


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """An event that is set when we are asked to end."""
    stop = threading.Event()

    def handle(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    heeded = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # under nohup it stays ignored
        heeded.append(signal.SIGHUP)
    earlier = {number: signal.signal(number, handle) for number in heeded}
    try:
        yield stop
    finally:
        for number, before in earlier.items():
            signal.signal(number, before)
