"""The end of a run: everything settles, everything is deleted, and what is left then is told."""

import os
import re
import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import httpx
from redis import Redis

from tests.torture.checker import FINAL_STATE
from tests.torture.clients import CANARY, Client, Surroundings, problem_of
from tests.torture.cluster import Cluster
from unet_factory_cli.embedded import EmbeddedServer

SETTLES_WITHIN_S = 240.0
SWEPT_WITHIN_S = 60.0

_AGED_S = 3 * 3600.0  # killed processes' leftovers go within two hours
_TURNS = ("maintenance:orphans", "received:purging", "maintenance:forget")
# of a job or a series; what is left of it after its end is a tombstone and a sealed idempotency key
_OWN_KEYS = re.compile(
    r"job:[0-9a-f]{32}(:lease)?|outbox:.*|received:(?!purging).*|stored:of:.*|jobs:(active|expiry|uploads).*"
)
_LISTS = ("jobs:listed:", "dicom:results", "jobs:of:")
_QUEUES = ("segmentations", "weights")
_ENDED = re.compile(r"job ([0-9a-f]{32}) (succeeded|failed|cancelled)$")
_FAILED = re.compile(r"job ([0-9a-f]{32}) failed: \S*:([a-z-]+)$")
_REPLACED = re.compile(r"job ([0-9a-f]{32}) is replaced by a new one")


class Ending(Client):
    """Works while somebody else keeps the cluster alive."""

    def __init__(self, around: Surroundings) -> None:
        super().__init__("ending", 0, around)
        self._cluster = around.cluster
        self._jobs_url = EmbeddedServer.url_in(self._cluster.jobs_folder)
        self._jobs: list[dict[str, Any]] = []
        self._settled = False
        self._aged = 0

    def settle_and_delete(self) -> None:
        """Wait until nothing is under way any more, then delete every job."""
        deadline = time.monotonic() + SETTLES_WITHIN_S
        while not (self._settled or time.monotonic() > deadline):
            time.sleep(0.2)
            self._settled = self.settled()
        self._jobs = self.jobs()
        for job in self._jobs:
            self.until(httpx.codes.NO_CONTENT, "DELETE", f"/segmentations/{job['id']}", "delete")

    def settled(self) -> bool:
        """Whether no job waits or runs, no series waits to become one, and no delivery is pending."""
        with Redis.from_url(self._jobs_url) as store:
            busy = store.zcard("jobs:active") or store.zcard("received:due")
            pending = any(store.zcard(queue) for queue in store.smembers("outbox:queues"))
        return not busy and not pending and not list(self._cluster.spool.glob("series/*/*.dcm"))

    def jobs(self) -> list[dict[str, Any]]:
        """All that are listed."""
        found, cursor = list[dict[str, Any]](), None
        while True:
            parameters = {"limit": 200} | ({"cursor": cursor} if cursor else {})
            answer = self.until(httpx.codes.OK, "GET", "/segmentations", "list", params=parameters)
            assert answer is not None, "the gateways do not answer"
            found += answer.json()["jobs"]
            cursor = answer.json()["next"]
            if cursor is None:
                return found

    def age_leftovers(self) -> None:
        """Make what lies there three hours old, so that nobody has to wait for the time that the factory takes."""
        paths = [path for path in self._cluster.blobs.rglob("*") if path.parent != self._cluster.blobs]
        for path in sorted(paths, reverse=True):
            status = path.stat()
            os.utime(path, (status.st_atime - _AGED_S, status.st_mtime - _AGED_S))
        self._aged = sum(path.is_file() for path in paths)

    def tell(self) -> None:
        """Give the factory time to sweep; what is left then goes to the history."""
        deadline = time.monotonic() + SWEPT_WITHIN_S
        while (self._files() or self._keys() or self._secrets() or self._messages()) and time.monotonic() < deadline:
            with Redis.from_url(self._jobs_url) as store:
                store.delete(*_TURNS)  # else the turn comes once a minute
            time.sleep(0.5)
        words = _read_logs(self._cluster)
        self.history.note(
            "ending",
            FINAL_STATE,
            type="ok",
            settled=self._settled,
            jobs=[_told(job) for job in self._jobs],
            superseded=sorted(words.replaced),
            ends_logged=words.ends,
            failures_logged=words.failures,
            aged=self._aged,
            files=self._files(),
            keys=self._keys(),
            secrets=self._secrets(),
            messages=self._messages(),
        )

    def _files(self) -> list[str]:
        """Below the folders of the blob store, and in the listener's spool."""
        found = list(self._cluster.blobs.glob("*/*"))
        found += [path for path in self._cluster.spool.rglob("*") if path.is_file()]
        return sorted(str(path.relative_to(self._cluster.folder.parent)) for path in found)

    def _keys(self) -> list[str]:
        with Redis.from_url(self._jobs_url) as store:
            names = sorted(name.decode() for name in store.scan_iter(count=1000))
            return [name for name in names if _OWN_KEYS.fullmatch(name) or name.startswith(_LISTS)]

    def _messages(self) -> list[str]:
        with Redis.from_url(self._jobs_url) as store:
            return [f"{store.llen(queue)} in {queue}" for queue in _QUEUES if store.llen(queue)]

    def _secrets(self) -> list[str]:
        """Files that still hold the secret part of a callback's URL."""
        places = (self._cluster.disk, self._cluster.logs, self._cluster.cache_folder)
        files = [path for place in places for path in place.rglob("*")]
        return sorted(path.name for path in files if CANARY.encode() in _content(path))


def _content(path: Path) -> bytes:
    """Nothing of a folder, a socket, or a file that has just gone, as when the store rewrites its own."""
    with suppress(FileNotFoundError):
        return path.read_bytes() if path.is_file() else b""
    return b""


class _Words(NamedTuple):
    """Of the roles' logs: how a job ended, by what it failed, and which jobs of parts of series were replaced."""

    ends: dict[str, list[str]]
    failures: dict[str, str]
    replaced: set[str]


def _read_logs(cluster: Cluster) -> _Words:
    words = _Words(defaultdict(list), {}, set())
    for log in sorted(cluster.logs.glob("*.log")):
        for line in log.read_text(errors="replace").splitlines():
            if found := _ENDED.search(line):
                words.ends[found[1]].append(found[2])
            elif found := _FAILED.search(line):
                words.failures[found[1]] = found[2]
            elif found := _REPLACED.search(line):
                words.replaced.add(found[1])
    return words


def _told(job: dict[str, Any]) -> dict[str, Any]:
    return {
        "job": job["id"],
        "state": job["state"],
        "attempts": job["attempts"],
        "error": problem_of(job),
    }
