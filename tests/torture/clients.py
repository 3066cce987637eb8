"""Clients that submit, follow, fetch and delete, each in a thread, each with a random generator of its own.

A client asks again for as long as it is told to come back or the connection breaks, as any client should. Each refusal
is an event of its own, for the checker to judge.
"""

import hashlib
import io
import random
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
from pydicom import dcmread

from tests.torture.cluster import Cluster
from tests.torture.history import History, Operation
from tests.torture.inputs import MODEL, Scan
from tests.torture.receivers import Receivers, of_segmentation

CANARY = "canary-"  # in the secret part of each callback URL, which nothing may keep

_PAUSE_S = (0.1, 0.6)
TIMEOUT_S = 15.0
_FINAL = ("succeeded", "failed", "cancelled")


@dataclass(frozen=True)
class Surroundings:
    """What all clients share. ``patience_s``: how long they keep asking; ``stop``: begin nothing new."""

    history: History
    cluster: Cluster
    receivers: Receivers
    scans: list[Scan]
    patience_s: float
    stop: threading.Event = field(default_factory=threading.Event)

    @property
    def gateways(self) -> list[str]:
        return [f"http://127.0.0.1:{port}" for port in self.cluster.gateway_ports]


class Client:
    """One thread. ``run_once`` is one round."""

    def __init__(self, name: str, seed: int, around: Surroundings) -> None:
        self.name, self.around, self.history = name, around, around.history
        self.random = random.Random(f"{seed} {name}")
        self._http = httpx.Client(timeout=TIMEOUT_S, trust_env=False)

    def run(self) -> None:
        while not self.around.stop.wait(self.random.uniform(*_PAUSE_S)):
            self.run_once()
        self._http.close()

    def run_once(self) -> None:
        raise NotImplementedError

    def ask(self, method: str, path: str, what: str, **arguments: Any) -> httpx.Response | None:
        """The answer of either gateway; None when the connection broke. A refusal is noted."""
        url = self.random.choice(self.around.gateways) + path
        try:
            answer = self._http.request(method, url, **arguments)
        except httpx.HTTPError:
            return None
        if answer.status_code >= httpx.codes.BAD_REQUEST:
            kind = answer.headers.get("Content-Type", "").partition(";")[0]
            problem = answer.json() if kind == "application/problem+json" else {}
            self.history.note(
                self.name,
                "refused",
                asked=what,
                status=answer.status_code,
                retry_after=answer.headers.get("Retry-After"),
                problem=str(problem.get("type", "")).rpartition(":")[2],
            )
        return answer

    def tries(self) -> Iterator[int]:
        """Numbers of attempts, until patience ends; pauses lie between them."""
        deadline, number = time.monotonic() + self.around.patience_s, 0
        while time.monotonic() < deadline:
            number += 1
            yield number
            time.sleep(self.random.uniform(0.2, 0.8))
        self.history.note(self.name, "given-up", after_s=self.around.patience_s)

    def until(self, status: int, method: str, path: str, what: str, **arguments: Any) -> httpx.Response | None:
        """The first answer that is ``status``, or a final refusal; None when patience ended."""
        for _ in self.tries():
            answer = self.ask(method, path, what, **arguments)
            if answer is not None and (answer.status_code == status or not comes_back(answer.status_code)):
                return answer
        return None


class Submitter(Client):
    """By ``POST /segmentations``: follows what it submits, fetches, and deletes or leaves it."""

    def run_once(self) -> None:
        scan = self.random.choice(self.around.scans)
        keyed, called_back = self.random.random() < 0.6, self.random.random() < 0.5
        form = {"model": MODEL}
        if called_back:
            secret = f"{CANARY}{self.random.getrandbits(64):x}"
            form["callback_url"] = f"{self.around.cluster.destinations_url}/hook?token={secret}"
        job_id = self.submit(scan, form, secrets.token_hex(8) if keyed else None)
        if job_id is None or not self.follow(job_id):
            return
        for _ in range(self.random.choice((1, 1, 2))):
            self.fetch(job_id, scan)
        self.look_again(job_id)
        if self.random.random() < 0.7:
            self.delete(job_id)

    def submit(self, scan: Scan, form: dict[str, str], key: str | None) -> str | None:
        """The job's id. With a key the request is repeated until its outcome is known; without, nobody may know it."""
        headers = {} if key is None else {"Idempotency-Key": key}
        content = scan.file.read_bytes()
        for _ in self.tries():
            with self.history.operation(self.name, "submit", scan=scan.name, key=key) as operation:
                answer = self.ask(
                    "POST",
                    "/segmentations",
                    "submit",
                    data=form,
                    files={"file": (scan.file.name, content)},
                    headers=headers,
                )
                if answer is not None and answer.status_code == httpx.codes.ACCEPTED:
                    operation.ok(job=answer.json()["id"], scan=scan.name, key=key, called_back="callback_url" in form)
                    return str(answer.json()["id"])
                if answer is not None:
                    operation.fail(status=answer.status_code)
                    if not comes_back(answer.status_code):
                        return None
            if key is None or self.around.stop.is_set():
                return None
        return None

    def follow(self, job_id: str) -> bool:
        """Whether it succeeded and all its deliveries were made; its end goes to the history."""
        with self.history.operation(self.name, "follow", job=job_id) as operation:
            for _ in self.tries():
                job = self._job(job_id, operation)
                if job is None:
                    continue
                if "state" not in job:
                    return False
                settled = all(one["state"] != "pending" for one in job["deliveries"])
                if job["state"] in _FINAL and settled:
                    operation.ok(**self._end(job))
                    return bool(job["state"] == "succeeded")
        return False

    def look_again(self, job_id: str) -> None:
        """What has ended must have ended the same way when it is asked for again."""
        with self.history.operation(self.name, "look-again", job=job_id) as operation:
            for _ in self.tries():
                job = self._job(job_id, operation)
                if job is not None:
                    if "state" in job:
                        operation.ok(**self._end(job))
                    return

    def fetch(self, job_id: str, scan: Scan) -> None:
        with self.history.operation(self.name, "fetch", job=job_id, scan=scan.name) as operation:
            answer = self.until(httpx.codes.OK, "GET", f"/segmentations/{job_id}/labelmap", "labelmap")
            self._tell(operation, answer, job_id, scan.name, sha256_of)
        if scan.is_dicom:
            with self.history.operation(self.name, "fetch-seg", job=job_id, scan=scan.name) as operation:
                answer = self.until(httpx.codes.OK, "GET", f"/segmentations/{job_id}/seg", "seg")
                self._tell(operation, answer, job_id, scan.name, _segmentation)

    def delete(self, job_id: str) -> None:
        with self.history.operation(self.name, "delete", job=job_id) as operation:
            answer = self.until(httpx.codes.NO_CONTENT, "DELETE", f"/segmentations/{job_id}", "delete")
            if answer is None:
                return
            if answer.status_code not in (httpx.codes.NO_CONTENT, httpx.codes.GONE):
                operation.fail(job=job_id, status=answer.status_code)
                return
            operation.ok(job=job_id)
        with self.history.operation(self.name, "fetch-deleted", job=job_id) as operation:
            answer = self.until(httpx.codes.GONE, "GET", f"/segmentations/{job_id}/labelmap", "deleted labelmap")
            if answer is not None:
                operation.ok(job=job_id, status=answer.status_code)

    def _job(self, job_id: str, operation: Operation) -> dict[str, Any] | None:
        """The job; an empty one, and the operation's failure noted, where it is refused for good; None to ask again."""
        answer = self.ask("GET", f"/segmentations/{job_id}", "job")
        if answer is None or comes_back(answer.status_code):
            return None
        if answer.status_code != httpx.codes.OK:
            operation.fail(job=job_id, status=answer.status_code)
            return {}
        found: dict[str, Any] = answer.json()
        return found

    def _end(self, job: dict[str, Any]) -> dict[str, Any]:
        """What the checker needs of a job that has ended; ``expires_s`` is a time of the history."""
        return {
            "job": job["id"],
            "state": job["state"],
            "finished": job["finished"],
            "attempts": job["attempts"],
            "error": problem_of(job),
            "expires_s": round(self.history.now_s + job["expires"] - time.time(), 3),
            "deliveries": [[one["kind"], one["state"], one["attempts"]] for one in job["deliveries"]],
        }

    def _tell(
        self,
        operation: Operation,
        answer: httpx.Response | None,
        job_id: str,
        scan: str,
        described: Callable[[bytes], dict[str, object]],
    ) -> None:
        if answer is None:
            return
        if answer.status_code == httpx.codes.OK:
            operation.ok(job=job_id, scan=scan, **described(answer.content))
        else:
            operation.fail(job=job_id, status=answer.status_code)


def comes_back(status: int) -> bool:
    """Whether the same request may succeed later."""
    return status in (408, 429) or status >= httpx.codes.INTERNAL_SERVER_ERROR


def problem_of(job: dict[str, Any]) -> str:
    """The last word of its error's type; empty without an error."""
    return str((job["error"] or {}).get("type", "")).rpartition(":")[2]


def sha256_of(content: bytes) -> dict[str, object]:
    return {"sha256": hashlib.sha256(content).hexdigest()}


def _segmentation(content: bytes) -> dict[str, object]:
    """Its own UID and bytes, and its pixels, which are the same in every job for the same scan."""
    found = dcmread(io.BytesIO(content))
    return {"uid": str(found.SOPInstanceUID), **sha256_of(content), **of_segmentation(found)}
