"""Nothing of a patient leaks: scans full of invented names go through a real factory, well and badly, and then every
log, metric, task, record and answer is searched for them. What is deleted leaves nothing but a tombstone.
"""

import base64
import gzip
import hashlib
import io
import re
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import nibabel
import numpy as np
import pytest
from redis import Redis
from redis.exceptions import RedisError

from tests.fixtures.dicom_files import mr_series, saved
from tests.fixtures.volume_files import write_mha, write_nrrd
from tests.system.processes import until
from tests.system.serve_process import ServeProcess, environment
from unet_factory.domain.jobs import Job
from unet_factory.jobs.store import JobStore
from unet_factory_cli.embedded import EmbeddedServer

NAME, PATIENT_ID, UID_ROOT = "Zyxwvut^Quirinius", "PQ-77310951", "1.2.826.0.1.3680043.10.77310951"
MARKERS = re.compile(rb"quirin|zyxwvut|77310951", re.IGNORECASE)
STOW = {"Content-Type": 'multipart/related; type="application/dicom"; boundary=b'}

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(240)]


class Factory:
    """One that requires keys, with everything that passes its Redis servers on record, and all answers."""

    def __init__(self, folder: Path, models: Path) -> None:
        self.serve = ServeProcess(
            folder,
            models,
            authentication="required",
            log_format="json",
            device="cpu",
            threads=1,
            lease_s=2,
            maintenance_interval_s=0.5,
            series_quiet_s=0.5,
        )
        self.token = self.new_key("segment", "weights")
        self.answers: list[httpx.Response] = []
        self.commands: list[str] = []
        self.redis = Redis.from_url(EmbeddedServer.url_in(self.serve.data_dir / "jobs"))
        self.jobs = JobStore(self.redis)
        for name in ("jobs", "cache"):
            threading.Thread(target=self._listen, args=(name,), daemon=True).start()
        until(lambda: self._heard("listening"))

    def new_key(self, *scopes: str) -> str:
        options = [part for scope in scopes for part in ("--scope", scope)]
        command = [sys.executable, "-m", "unet_factory_cli", "keys", "create", "tests", *options]
        done = subprocess.run(
            [*command, "--data-dir", str(self.serve.data_dir)],
            env=environment(),
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        return done.stdout.strip()

    def ask(self, method: str, path: str, *, key: str | None = None, **options: Any) -> httpx.Response:
        headers = {"X-API-Key": key or self.token} | options.pop("headers", {})
        url = f"{self.serve.url}{path}"
        answer = httpx.request(method, url, headers=headers, timeout=60, trust_env=False, **options)
        self.answers.append(answer)
        return answer

    def submit(self, name: str, content: bytes, **fields: str) -> httpx.Response:
        """As a browser does: with the file's name."""
        file = {"file": (name, content, "application/octet-stream")}
        return self.ask("POST", "/segmentations", files=file, data=fields, headers={"Prefer": "wait=60"})

    def everything(self) -> dict[str, bytes]:
        """All that others than the asker may come to see, by where it was found."""
        folder = self.serve.data_dir
        found = {str(path): content for path, content in contents(folder.rglob("*.log"))}
        found |= {str(path): content for path, content in contents(folder.glob("jobs/appendonlydir/*"))}
        found |= {str(path.relative_to(folder)): b"" for path in folder.rglob("*")}  # names alone
        found |= {f"log {index}": line.encode() for index, line in enumerate(self.serve.log.splitlines())}
        found |= {f"redis {index}": line.encode() for index, line in enumerate(self.commands)}
        found |= {f"task {index}": body for index, body in enumerate(self.tasks())}
        found["metrics"] = self.ask("GET", "/metrics").content
        for index, answer in enumerate(self.answers):
            found[f"headers {index} {answer.request.method} {answer.status_code}"] = str(answer.headers.raw).encode()
            if answer.headers.get("Content-Type") in ("application/problem+json", "application/json"):
                found[f"answer {index} {answer.request.method} {answer.status_code}"] = answer.content
        return found

    def tasks(self) -> list[bytes]:
        """The arguments of all Celery tasks, as they were sent."""
        bodies = (re.search(r'\\?"body\\?": \\?"([A-Za-z0-9+/=]+)', command) for command in self.commands)
        return [base64.b64decode(found[1]) for found in bodies if found]

    def close(self) -> None:
        self.redis.close()
        self.serve.stop()
        self.serve.kill()

    def _listen(self, name: str) -> None:
        with (
            suppress(RedisError, ValueError, OSError),
            Redis.from_url(EmbeddedServer.url_in(self.serve.data_dir / name)) as redis,
            redis.monitor() as monitor,
        ):
            while True:
                self.commands.append(monitor.next_command()["command"])

    def _heard(self, word: str) -> bool:
        self.redis.echo(word)
        return any(word in command for command in self.commands)


@pytest.fixture(scope="module")
def factory(tmp_path_factory: pytest.TempPathFactory, tiny_models: Path) -> Iterator[Factory]:
    factory = Factory(tmp_path_factory.mktemp("privacy"), tiny_models)
    try:
        yield factory
    finally:
        factory.close()


@pytest.fixture(scope="module")
def used(factory: Factory, tmp_path_factory: pytest.TempPathFactory) -> Factory:
    """The factory after scans of every kind and failures of every kind."""
    folder = tmp_path_factory.mktemp("scans")
    statuses = [(what, send_volume(factory, what, folder)) for what in VOLUMES]
    statuses += [(what, send_dicom(factory, what, folder)) for what in DICOM]
    assert statuses == [(what, wanted) for what, (wanted, _) in {**VOLUMES, **DICOM}.items()]
    send_by_dicomweb(factory)
    knock_on_doors(factory)
    return factory


def test_who_starts_it_is_told_how_to_make_a_key(factory: Factory) -> None:
    serve = factory.serve
    assert f"unet-factory keys create NAME --scope segment --data-dir {serve.data_dir}" in serve.log


def test_no_name_id_uid_or_file_name_is_to_be_found_anywhere(used: Factory) -> None:
    found = used.everything()
    assert leaks(found) == {}
    job = first_job(used)
    for where in ("log ", "redis ", "task ", "answer ", str(used.serve.data_dir / "audit.log")):
        assert any(job.id.encode() in text for name, text in found.items() if name.startswith(where)), where
    assert b"unet_factory_jobs_total" in found["metrics"]


def test_the_search_finds_what_is_planted(used: Factory) -> None:
    assert leaks({"log": b'{"message": "scan of ZYXWVUT"}', "clean": b"", "file Quirinius.nii": b""}).keys() == {
        "log",
        "file Quirinius.nii",
    }
    used.redis.set("planted", NAME)
    until(lambda: any(NAME in command for command in used.commands))
    assert any(name.startswith("redis ") for name in leaks(used.everything()))
    assert any("appendonly" in name for name in leaks(used.everything()))
    used.redis.delete("planted")
    used.commands[:] = [command for command in used.commands if NAME not in command]
    used.redis.bgrewriteaof()
    until(lambda: not leaks(used.everything()))


def test_what_is_deleted_leaves_a_tombstone_and_nothing_else(used: Factory) -> None:
    scan = gzip.compress(nifti())
    digest = hashlib.sha256(scan).hexdigest()
    headers = {"Prefer": "wait=60", "Idempotency-Key": "once"}
    job_id = used.ask("POST", "/segmentations", files={"file": scan}, headers=headers).json()["id"]
    entries = [value for key, value in dump(used.redis).items() if key.startswith("idempotency:")]
    (entry,) = [value for value in entries if job_id.encode() in value]
    fingerprint = entry.split()[0]
    assert len(fingerprint) == 64
    on_disk = holding(used.serve.data_dir, fingerprint)
    assert on_disk, "the search finds it while it is there"
    until(lambda: not list(used.serve.data_dir.glob(f"blobs/jobs/{job_id}/input*")), 10)
    for job in all_jobs(used):
        assert used.ask("DELETE", f"/segmentations/{job}").status_code == 204
    assert used.ask("GET", f"/segmentations/{job_id}").status_code == 410
    until(lambda: not used.redis.llen("segmentations"))
    left = dump(used.redis)
    assert [key for key in left if job_id in key] == [f"job:{job_id}:gone"]
    named_in = {key: value for key, value in left.items() if job_id.encode() in value}
    assert {(key.split(":")[0], value) for key, value in named_in.items()} == {("idempotency", f"- {job_id}".encode())}
    assert not any(digest.encode() in value or fingerprint in value for value in left.values())
    until(lambda: not holding(used.serve.data_dir, fingerprint, digest.encode()), 20)
    assert not [path for path in used.serve.data_dir.rglob("*") if job_id in path.name]
    blobs = used.serve.data_dir / "blobs"
    assert [path for path in blobs.rglob("*") if path.is_file()] == []


def leaks(found: dict[str, bytes]) -> dict[str, tuple[bytes, bytes]]:
    """Where a marker stands, in a text or in where it was found, and what is around it."""
    return {
        where: (match[0], text[max(0, match.start() - 200) : match.end() + 200])
        for where, text in found.items()
        for match in [MARKERS.search(text) or MARKERS.search(where.encode())]
        if match
    }


def nifti(change: Callable[[nibabel.Nifti1Image], None] = lambda _: None, voxels: Any = None) -> bytes:
    data = np.random.default_rng(0).normal(size=(16, 16, 16)).astype(np.float32) if voxels is None else voxels
    image = nibabel.Nifti1Image(data, np.eye(4))
    image.header["descrip"] = b"Quirinius 77310951"
    image.header["aux_file"] = b"zyxwvut.mat"
    image.header["intent_name"] = b"quirin"
    change(image)
    return image.to_bytes()


def contradict(image: nibabel.Nifti1Image) -> None:
    image.set_qform(np.diag([2.0, 2, 2, 1]), code=1)
    image.set_sform(np.eye(4), code=1)


VOLUMES: dict[str, tuple[int, Callable[[Path], bytes]]] = {
    "good.nii": (200, lambda _: nifti()),
    "good.nii.gz": (200, lambda _: gzip.compress(nifti())),
    "constant.nii": (200, lambda _: nifti(voxels=np.zeros((16, 16, 16), np.float32))),  # its job fails
    "contradicting.nii": (422, lambda _: nifti(contradict)),
    "truncated.nii": (415, lambda _: nifti()[:3000]),
    "truncated.nii.gz": (415, lambda _: gzip.compress(nifti())[:2000]),
    "text.nii": (415, lambda _: b"Zyxwvut^Quirinius 77310951"),
    "empty.nii": (415, lambda _: b""),
    "elsewhere.mha": (415, lambda f: write_mha(f / "a", ElementDataFile="Quirinius.raw").read_bytes()),
    "odd.mha": (415, lambda f: write_mha(f / "a", ElementType="QUIRINIUS", Comment=NAME).read_bytes()),
    "odd.nrrd": (415, lambda f: write_nrrd(f / "a", encoding="quirinius", content=NAME).read_bytes()),
}


def send_volume(factory: Factory, what: str, folder: Path) -> int:
    _, make = VOLUMES[what]
    return factory.submit(f"{NAME} {PATIENT_ID} {what}", make(folder)).status_code


def patient(**more: object) -> list[Any]:
    """A series of somebody invented."""
    number = len(str(more))  # any
    series = mr_series(
        seed=number,
        PatientName=NAME,
        PatientID=PATIENT_ID,
        PatientComments=f"{NAME} was here",
        InstitutionName="Hospital of Quirinburg",
        ReferringPhysicianName="Quirinsky^Doc",
        AccessionNumber="77310951",
        StudyDescription="Quirin study",
        SeriesDescription="Zyxwvut series",
        StudyInstanceUID=f"{UID_ROOT}.1",
        SeriesInstanceUID=f"{UID_ROOT}.2",
        FrameOfReferenceUID=f"{UID_ROOT}.3",
    )
    for index, one in enumerate(series):
        one.SOPInstanceUID = f"{UID_ROOT}.4.{index}"
        for keyword, value in more.items():
            setattr(one, keyword, value)
    return series


def zipped(series: list[Any], folder: Path, *extra: tuple[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for index, path in enumerate(saved(series, folder / "series")):
            archive.write(path, f"{NAME}/{PATIENT_ID}/Quirinius {index}.dcm")
        for name, content in extra:
            archive.writestr(name, content)
    return buffer.getvalue()


def mixed() -> list[Any]:
    return [*patient(), *patient(SeriesInstanceUID=f"{UID_ROOT}.9")]


def truncated() -> list[Any]:
    series = patient()
    series[1].PixelData = series[1].PixelData[:100]
    return series


def without(keyword: str) -> list[Any]:
    series = patient()
    delattr(series[2], keyword)
    return series


DICOM: dict[str, tuple[int, Callable[[Path], bytes]]] = {
    "good.zip": (200, lambda f: zipped(patient(), f)),
    "with a text.zip": (200, lambda f: zipped(patient(), f, ("Quirinius.txt", NAME.encode()))),
    "gap.zip": (422, lambda f: zipped([one for i, one in enumerate(mr_far()) if i != 2], f)),
    "twice.zip": (422, lambda f: zipped([*patient(), *patient(EchoTime=7.5)[:2]], f)),
    "mixed.zip": (422, lambda f: zipped(mixed(), f)),
    "no position.zip": (422, lambda f: zipped(without("ImagePositionPatient"), f)),
    "not dicom.zip": (415, lambda f: zipped([], f, ("Quirinius.txt", NAME.encode()))),
    "broken.zip": (415, lambda f: zipped(patient(), f)[:-200]),
    "truncated.zip": (415, lambda f: zipped(truncated(), f)),
}


def mr_far() -> list[Any]:
    """Eight slices, so that one can be missing among them."""
    series = mr_series(slices=8)
    for index, one in enumerate(series):
        for given in patient()[0]:
            if given.keyword.startswith(("Patient", "Study", "Series", "Institution", "Frame")):
                one[given.tag] = given
        one.SOPInstanceUID = f"{UID_ROOT}.5.{index}"
    return series


def send_dicom(factory: Factory, what: str, folder: Path) -> int:
    _, make = DICOM[what]
    return factory.submit(f"{NAME} {what}", make(folder / what)).status_code


def send_by_dicomweb(factory: Factory) -> None:
    """Stored, found, fetched; refused in several ways. These answers are to hold what the asker holds already."""
    before, good = set(all_jobs(factory)), [encoded(one) for one in patient()]
    no_uid = "quirinius.77310951".ljust(len(UID_ROOT) + 2, "x")
    bad = good[0].replace(f"{UID_ROOT}.1".encode(), no_uid.encode())
    parts = [b"--b\r\nContent-Type: application/dicom\r\n\r\n%s\r\n" % one for one in (*good, bad, bad[:700])]
    assert factory.ask("POST", "/dicomweb/studies", content=b"".join(parts) + b"--b--\r\n", headers=STOW).is_success
    (job_id,) = until(lambda: set(all_jobs(factory)) - before)
    assert until(lambda: ended(factory, job_id)).error is None
    for part in ("", "/events", "/labelmap", "/seg", "/report"):
        assert factory.ask("GET", f"/segmentations/{job_id}{part}").status_code == 200
    study = f"/dicomweb/studies/{UID_ROOT}.1"
    assert factory.ask("GET", "/dicomweb/studies", params={"PatientName": "Zyx*"}).json()
    assert factory.ask("GET", study, headers={"Accept": 'multipart/related; type="application/dicom"'}).is_success
    assert factory.ask("GET", f"{study}/metadata").json()
    for path in (f"{study}.9", f"{study}/series/{UID_ROOT}.9", f"{study}/series/{UID_ROOT}.2/instances/{NAME}"):
        assert factory.ask("GET", path).status_code in (400, 404)


def knock_on_doors(factory: Factory) -> None:
    """What is asked for wrongly is not repeated by those who refuse it."""
    job = first_job(factory)
    for method, path, status in (
        ("GET", f"/patients/{NAME}", 404),
        ("GET", f"/segmentations/{job.id}?patient={PATIENT_ID}", 200),
        ("POST", f"/segmentations?patient={NAME}", 400),
        ("PUT", f"/segmentations/{job.id}/{PATIENT_ID}", 404),
    ):
        assert factory.ask(method, path).status_code == status
    assert factory.ask("GET", "/models", key=f"unf_{PATIENT_ID}").status_code == 401
    assert factory.ask("GET", f"/segmentations/{job.id}", key=factory.new_key("segment")).status_code == 404
    assert factory.submit("a", nifti(), series_uid="quirinius").status_code == 400


def encoded(dataset: Any) -> bytes:
    buffer = io.BytesIO()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def all_jobs(factory: Factory) -> list[str]:
    found: Any = factory.redis.zrange("jobs:expiry", 0, -1)
    return [raw.decode() for raw in found]


def first_job(factory: Factory) -> Job:
    return factory.jobs.get(all_jobs(factory)[0])


def ended(factory: Factory, job_id: str) -> Job | None:
    job = factory.jobs.get(job_id)
    return job if job.state.final else None


def dump(redis: "Redis") -> dict[str, bytes]:
    """Every key with all that it holds, as one text."""
    read: dict[Any, Callable[[bytes], Any]] = {
        b"string": redis.get,
        b"hash": redis.hgetall,
        b"list": lambda key: redis.lrange(key, 0, -1),
        b"set": redis.smembers,
        b"zset": lambda key: redis.zrange(key, 0, -1),
    }
    found = {}
    for key in redis.keys("*"):
        assert isinstance(key, bytes)
        kind = redis.type(key)
        value = b"" if kind == b"none" else read[kind](key)  # it may have ended by itself
        found[key.decode()] = value if isinstance(value, bytes) else repr(value).encode()
    return found


def contents(paths: Iterable[Path]) -> Iterator[tuple[Path, bytes]]:
    """Every file among `paths` with its bytes. The servers replace files meanwhile: what has gone holds nothing."""
    for path in paths:
        with suppress(FileNotFoundError):
            if path.is_file():
                yield path, path.read_bytes()


def holding(folder: Path, *texts: bytes) -> list[Path]:
    """The files that hold one of the texts."""
    return [path for path, content in contents(folder.rglob("*")) if any(text in content for text in texts)]
