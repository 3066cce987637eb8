"""One run from start to end: a quiet run, faults, peace, and the last look at what is left."""

import contextlib
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx

from tests.fixtures.tiny_model import save_tiny_model
from tests.torture.checker import QUIET
from tests.torture.clients import Client, Submitter, Surroundings
from tests.torture.cluster import GATEWAYS, WORKERS, Cluster, cluster
from tests.torture.ending import Ending
from tests.torture.history import History
from tests.torture.inputs import NETWORKS_MM, SERIES_KINDS, make_scans
from tests.torture.nemesis import Nemesis
from tests.torture.proxy import proxies
from tests.torture.receivers import receivers
from tests.torture.senders import DimseSender, NetworkFetcher, StowSender

DISK_MIB = 160
ATTEMPTS = 10  # at a job: with the usual three, enough kills in a row end one, as they should

_TEND_EVERY_S = 0.05
_READY_WITHIN_S = 180.0
_CLIENTS = (*[Submitter] * 4, StowSender, DimseSender, NetworkFetcher)


def torture(output: Path, seconds: float, seed: int, retention_s: float) -> Path:
    """Leaves history and logs in ``output``; the history's file. To be called from the main thread."""
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    history = History(output / "history.jsonl")
    with contextlib.ExitStack() as stack:
        name = stack.enter_context(tempfile.TemporaryDirectory(prefix="torture-", dir="/tmp"))
        folder = Path(name)
        has_own_disk = stack.enter_context(_small_disk(folder / "disk"))
        received, made = stack.enter_context(receivers(history)), stack.enter_context(proxies())
        settings = {"retention_s": retention_s, "job_attempts": ATTEMPTS}
        stack.callback(shutil.copytree, folder / "logs", output / "logs")
        save_tiny_model(folder / "models")
        factory = stack.enter_context(cluster(folder, received.port, history, made, **settings))
        around = Surroundings(history, factory, received, make_scans(folder / "scans"), retention_s)
        _tended(factory, lambda: _quiet_run(around, seed))
        _suffer(around, Nemesis(factory, received, seed, has_own_disk=has_own_disk), seconds, seed)
        _end(around)
        history.note("run", "parameters", minutes=seconds / 60, seed=seed, retention_s=retention_s, machine=_machine())
    history.close()
    return output / "history.jsonl"


def _machine() -> str:
    return f"{os.cpu_count()} cores, load {os.getloadavg()[2]:.0f}"


@contextlib.contextmanager
def _small_disk(folder: Path) -> Iterator[bool]:
    """A file system of its own, which faults may fill; False, and a plain folder, without the right to mount one."""
    folder.mkdir(mode=0o700)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m,mode=700", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, stderr=subprocess.DEVNULL, check=False).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _quiet_run(around: Surroundings, seed: int) -> None:
    """Every scan, series and network once, undisturbed: what all others are compared with."""
    _wait_until_ready(around)
    submitter = Submitter(QUIET, seed, around)
    for scan in around.scans:
        job_id = submitter.submit(scan, {"model": "tiny"}, None)
        assert job_id is not None, scan.name
        assert submitter.follow(job_id), scan.name
        submitter.fetch(job_id, scan)
    networks = NetworkFetcher(QUIET, seed, around)
    for spacing in NETWORKS_MM:
        networks.fetch(spacing)
    sender = StowSender(QUIET, seed, around)
    for kind in range(SERIES_KINDS):
        sender.send_new(kind)
    deadline = time.monotonic() + _READY_WITHIN_S
    while sender.unanswered:
        assert time.monotonic() < deadline, "the archive did not get the results of the quiet run"
        time.sleep(0.1)


def _wait_until_ready(around: Surroundings) -> None:
    deadline = time.monotonic() + _READY_WITHIN_S
    for url in around.gateways:
        while True:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{url}/readyz", trust_env=False).status_code == httpx.codes.OK:
                    break
            assert time.monotonic() < deadline, f"{url} did not become ready; see {around.cluster.logs}"
            time.sleep(0.2)


def _suffer(around: Surroundings, nemesis: Nemesis, seconds: float, seed: int) -> None:
    """All clients work while faults come and go; then there is peace, and each client ends what it has begun."""
    clients = [kind(f"client-{number}", seed, around) for number, kind in enumerate(_CLIENTS, start=1)]
    threads = [_started(client) for client in clients]
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        nemesis.tend()
        around.cluster.tend()
        time.sleep(_TEND_EVERY_S)
    nemesis.make_peace()
    around.stop.set()
    for thread in threads:
        _tended(around.cluster, thread.join)


def _started(client: Client) -> threading.Thread:
    thread = threading.Thread(target=client.run, name=client.name)
    thread.start()
    return thread


def _end(around: Surroundings) -> None:
    ending = Ending(around)
    _tended(around.cluster, ending.settle_and_delete)
    ending.age_leftovers()
    for name in (*GATEWAYS, *WORKERS):  # what is swept at a start is swept now
        around.cluster.roles[name].kill()
        around.cluster.start_again(around.cluster.roles[name])
    _tended(around.cluster, ending.tell)


def _tended(factory: Cluster, work: Callable[[], object]) -> None:
    """Work in a thread while this one keeps the cluster alive."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run, name="work")
    thread.start()
    while thread.is_alive():
        factory.tend()
        thread.join(_TEND_EVERY_S)
    if failures:
        raise failures[0]
