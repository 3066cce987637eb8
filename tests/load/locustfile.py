"""What one client of many does, by locust (https://locust.io), in a process and an environment of its own.

``LOAD_SCAN`` and ``LOAD_SERIES`` name a NIfTI file and a folder of DICOM files. A refusal with 429 or 503 and
Retry-After, or with 507, is an honest answer: it is counted under its status, and the client waits.
"""

import os
import re
import uuid
from pathlib import Path
from typing import Any

import gevent
from locust import FastHttpUser, between, task

SPACINGS = ("1,1,1", "1,1,2", "0.8,0.8,0.8", "1.5,1.5,3")
HONEST = (429, 503, 507)

_SCAN = Path(os.environ["LOAD_SCAN"]).read_bytes()
_INSTANCES = [path.read_bytes() for path in sorted(Path(os.environ["LOAD_SERIES"]).iterdir())]
_STOW = {"Content-Type": 'multipart/related; type="application/dicom"; boundary=b'}
_UID = re.compile(rb"1\.2\.826\.0\.1\.3680043\.8\.498\.9{20}")  # the placeholder in the files, of a fixed length


class Client(FastHttpUser):
    """Waits a moment between any two things it does."""

    wait_time = between(0.5, 2.0)

    @task(6)
    def segment(self) -> None:
        job = self.ask("POST", "/segmentations", files={"file": ("scan.nii.gz", _SCAN)}, expected=202)
        if job is None:
            return
        url = f"/segmentations/{job['id']}"
        for _ in range(600):
            told = self.ask("GET", url, name="/segmentations/ID")
            if told is not None and told["finished"]:
                break
            gevent.sleep(0.5)
        self.ask("GET", f"{url}/labelmap", name="/segmentations/ID/labelmap", parse=False)
        self.ask("DELETE", url, name="/segmentations/ID", expected=204, parse=False)

    @task(2)
    def send_series(self) -> None:
        fresh = f"1.2.826.0.1.3680043.8.498.{uuid.uuid4().int % 10**20:020d}".encode()
        parts = [b"--b\r\nContent-Type: application/dicom\r\n\r\n%s\r\n" % _UID.sub(fresh, one) for one in _INSTANCES]
        body = b"".join(parts) + b"--b--\r\n"
        self.ask("POST", "/dicomweb/studies", data=body, headers=_STOW, parse=False)

    @task(6)
    def fetch_network(self) -> None:
        spacing = SPACINGS[uuid.uuid4().int % len(SPACINGS)]
        self.ask("GET", f"/unet?spacing={spacing}", name="/unet", headers={"Prefer": "wait=20"}, parse=False)

    @task(3)
    def look_around(self) -> None:
        self.ask("GET", "/models")
        self.ask("GET", "/segmentations?limit=20", name="/segmentations")
        self.ask("GET", "/dicomweb/studies?limit=20", name="/dicomweb/studies", parse=False)

    @task(2)
    def ask_for_a_quote(self) -> None:
        asked = {"model": "tiny", "shape": [64, 64, 64], "spacing": [1, 1, 1]}
        self.ask("POST", "/quote", json=asked)

    @task(1)
    def watch(self) -> None:
        self.ask("GET", "/readyz", parse=False)
        self.ask("GET", "/metrics", parse=False)

    def ask(
        self, method: str, path: str, *, name: str = "", expected: int = 200, parse: bool = True, **arguments: Any
    ) -> Any:
        """The answer's JSON, or None for an honest refusal, which is counted under its status."""
        route = f"{method} {name or path}"
        with self.client.request(method, path, name=route, catch_response=True, **arguments) as answer:
            status = answer.status_code
            if status == expected or (method == "GET" and status == 204):
                answer.success()
                return answer.json() if parse else True
            honest = status in HONEST and (status == 507 or "Retry-After" in answer.headers)
            answer.request_meta["name"] = f"{route} ({status})"
            if honest:
                answer.success()
            else:
                answer.failure(f"{status}")
        if honest:
            gevent.sleep(float(answer.headers.get("Retry-After", 2)))
        return None
