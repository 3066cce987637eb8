"""A real hospital archive on loopback: Debian's Orthanc with its DICOMweb plugin, on free ports.

``with Orthanc.running(folder) as orthanc`` gives one that answers; ``stop`` and ``start`` are its outages, in which
ports and storage stay the same. Tests that need it carry ``@needs_orthanc``.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import httpx
import pytest

from tests.system.processes import free_port, until

PLUGINS = Path("/usr/share/orthanc/plugins")
AE_TITLE = "ORTHANC"
STARTS_WITHIN_S = 20.0
STOPS_WITHIN_S = 10.0

needs_orthanc = pytest.mark.skipif(
    shutil.which("Orthanc") is None or not (PLUGINS / "libOrthancDicomWeb.so").exists(),
    reason="needs the Debian packages orthanc and orthanc-dicomweb",
)


@dataclass(eq=False)
class Orthanc:
    """One archive. ``settings`` override the configuration below, key by key."""

    folder: Path
    http_port: int
    dicom_port: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    process: "subprocess.Popen[bytes] | None" = None

    @classmethod
    @contextmanager
    def running(cls, folder: Path, **settings: Any) -> Iterator[Self]:
        """An archive with an empty storage in ``folder``, stopped after the block."""
        folder.mkdir(parents=True, exist_ok=True)
        orthanc = cls(folder, free_port(), free_port(), settings)
        try:
            orthanc.start()
            yield orthanc
        finally:
            orthanc.stop()

    @property
    def url(self) -> str:
        """Of its own REST interface."""
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def dicomweb_url(self) -> str:
        return f"{self.url}/dicom-web"

    @property
    def log(self) -> str:
        return (self.folder / "orthanc.log").read_text(errors="replace")

    def start(self) -> None:
        """On the storage that it left; returns when it answers."""
        assert self.process is None, "it runs already"
        configuration = self.folder / "orthanc.json"
        configuration.write_text(json.dumps(self._configuration(), indent=1))
        with (self.folder / "orthanc.log").open("ab") as log:
            self.process = subprocess.Popen(
                ["Orthanc", str(configuration)], stdout=log, stderr=log, process_group=0, cwd=self.folder
            )
        until(lambda: self._answers() or self.process is None or self.process.poll() is not None, STARTS_WITHIN_S)
        assert self.process.poll() is None, self.log

    def stop(self) -> None:
        """What it holds stays on disk for the next start."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(STOPS_WITHIN_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def upload(self, file: Path) -> None:
        """Put one DICOM file into the archive by its own interface."""
        httpx.post(f"{self.url}/instances", content=file.read_bytes(), timeout=30).raise_for_status()

    def upload_folder(self, folder: Path) -> None:
        with httpx.Client(base_url=self.url, timeout=30) as http:
            for file in sorted(path for path in folder.rglob("*") if path.is_file() and is_dicom(path)):
                http.post("/instances", content=file.read_bytes()).raise_for_status()

    def series(self, study_uid: str) -> list[dict[str, Any]]:
        """The study's series as QIDO-RS tells them (DICOM JSON), empty when there is no such study."""
        fields = {"includefield": "00080060,0020000E,00201209,0008103E"}
        answer = httpx.get(f"{self.dicomweb_url}/studies/{study_uid}/series", params=fields, timeout=30)
        if answer.status_code == 404:
            return []
        found: list[dict[str, Any]] = answer.raise_for_status().json() if answer.content else []
        return found

    def modalities(self, study_uid: str) -> list[str]:
        """Of the study's series, sorted: ``["MR", "SEG", "SR"]``."""
        return sorted(series["00080060"]["Value"][0] for series in self.series(study_uid))

    def instances(self) -> list[str]:
        """SOP instance UIDs of everything that is stored."""
        found: list[dict[str, Any]] = httpx.get(f"{self.url}/instances?expand", timeout=30).raise_for_status().json()
        return sorted(instance["MainDicomTags"]["SOPInstanceUID"] for instance in found)

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/system", timeout=2).status_code in (200, 401)
        except httpx.HTTPError:
            return False

    def _configuration(self) -> dict[str, Any]:
        return {
            "Name": "tests",
            "StorageDirectory": str(self.folder / "storage"),
            "IndexDirectory": str(self.folder / "storage"),
            "HttpServerEnabled": True,
            "HttpPort": self.http_port,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomServerEnabled": True,
            "DicomAet": AE_TITLE,
            "DicomPort": self.dicom_port,
            "DicomCheckCalledAet": False,
            "DicomAlwaysAllowEcho": True,
            "DicomAlwaysAllowStore": True,
            "StableAge": 1,
            "OverwriteInstances": False,
            "HttpsCACertificates": "",
            "Plugins": [str(PLUGINS / "libOrthancDicomWeb.so")],
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/", "EnableWado": False},
            **self.settings,
        }


def with_defaults(configuration: str) -> str:
    """As Orthanc reads it where the variables in it are not set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", configuration)


def is_dicom(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(132)[128:] == b"DICM"
