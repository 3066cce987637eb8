"""The DICOM objects that jobs made, as QIDO-RS and WADO-RS see them: an index that goes with the jobs.

``dicom:results`` in Redis (hash) names every job whose scan was DICOM, as ``OWNER/STUDY``, with a digest of its study
once that is known. What its objects say of the patient lies among the job's files. A job is read into the index by the
first who asks after it has succeeded. A search reads the files of as many studies as it answers for, not of all.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from pydicom import dcmread
from redis import Redis

from unet_factory.domain.errors import JobExpired, JobUnknown
from unet_factory.domain.jobs import JobState
from unet_factory.domain.uids import uid_digest
from unet_factory.jobs.keys import ACTIVE, DICOM_RESULTS
from unet_factory.jobs.store import JobStore
from unet_factory.platform.blob_store import BlobStore
from unet_factory_service.access.callers import Caller
from unet_factory_service.dicomweb.dicom_json import Attributes, dicom_json, text

STUDY_ATTRIBUTES = (
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "ReferringPhysicianName",
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyInstanceUID",
    "StudyID",
    "StudyDescription",
)
SERIES_ATTRIBUTES = (
    "Modality",
    "SeriesDate",
    "SeriesTime",
    "SeriesDescription",
    "SeriesInstanceUID",
    "SeriesNumber",
    "FrameOfReferenceUID",
)
INSTANCE_ATTRIBUTES = (
    "SOPClassUID",
    "SOPInstanceUID",
    "InstanceNumber",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "ContentLabel",
)

_INDEX = "index.json"
# KEYS: hash. ARGV: field, value. Never brings back what was removed.
_SET_IF_KNOWN = """
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return 1
"""
_INDEXED = ["SpecificCharacterSet", *STUDY_ATTRIBUTES, *SERIES_ATTRIBUTES, *INSTANCE_ATTRIBUTES]


@dataclass(frozen=True, eq=False)
class StoredInstance:
    """One object; ``header`` holds the indexed attributes."""

    job_id: str
    name: str
    header: Attributes

    def uid(self, keyword: str) -> str:
        return text(self.header, keyword)


class _KnownJob(NamedTuple):
    """``study`` is empty while it is not known; the order is that of the answers."""

    study: str
    id: str
    owner: str


class ResultIndex:
    """Safe to share between threads and gateways."""

    def __init__(self, redis: Redis, jobs: JobStore, blobs: BlobStore) -> None:
        self._redis, self._jobs, self._blobs = redis, jobs, blobs
        self._set_if_known = redis.register_script(_SET_IF_KNOWN)

    def studies(self, caller: Caller, study_uid: str | None = None) -> Iterator[list[StoredInstance]]:
        """All objects of the caller's jobs, or those of one study: study by study, read as they are asked for."""
        wanted = None if study_uid is None else uid_digest(study_uid)
        jobs = sorted(job for job in self._known_to(caller) if wanted in (None, job.study))
        for _, of_study in groupby(jobs, lambda job: job.study):
            found = [instance for job in of_study for instance in self._of_job(job.id)]
            if found:
                yield found

    def instances(self, caller: Caller, study_uid: str) -> list[StoredInstance]:
        """All objects of the caller's jobs in one study."""
        return [instance for found in self.studies(caller, study_uid) for instance in found]

    @contextmanager
    def file(self, instance: StoredInstance) -> Iterator[Path]:
        """
        Raises:
            FileNotFoundError: it was purged meanwhile.
        """
        with self._blobs.local(instance.job_id, instance.name) as path:
            yield path

    def _known_to(self, caller: Caller) -> Iterator[_KnownJob]:
        """The caller's jobs that have results."""
        known: Any = self._redis.hgetall(DICOM_RESULTS)
        active: set[bytes] | None = None
        for raw_id, value in known.items():
            owner, _, study = value.decode().rpartition("/")
            if not (caller.sees_all or owner == caller.owner):
                continue
            if not study:
                if active is None:
                    active = set(self._redis.zrange(ACTIVE, 0, -1))  # type: ignore[arg-type]
                study = "" if raw_id in active else self._index(raw_id.decode(), owner)
            if study:
                yield _KnownJob(study, raw_id.decode(), owner)

    def _of_job(self, job_id: str) -> list[StoredInstance]:
        try:
            with self._blobs.local(job_id, _INDEX) as path:
                entries = json.loads(path.read_bytes())
        except FileNotFoundError:
            return []
        return [StoredInstance(job_id, entry["name"], entry["header"]) for entry in entries]

    def _index(self, job_id: str, owner: str) -> str:
        """The digest of the job's study; empty while, or because, there is nothing of it to be found."""
        try:
            state = self._jobs.get(job_id).state
        except (JobUnknown, JobExpired):
            state = JobState.CANCELLED
        if state is not JobState.SUCCEEDED:
            if state.final:
                self._redis.hdel(DICOM_RESULTS, job_id)
            return ""
        headers = self._headers(job_id)
        if not headers:
            self._redis.hdel(DICOM_RESULTS, job_id)
            return ""
        study = uid_digest(text(next(iter(headers.values())), "StudyInstanceUID"))
        entries = [{"name": name, "header": header} for name, header in headers.items()]
        with self._blobs.scratch() as folder:
            (folder / _INDEX).write_text(json.dumps(entries))
            self._blobs.put(job_id, _INDEX, folder / _INDEX)
        if not self._set_if_known(keys=[DICOM_RESULTS], args=[job_id, f"{owner}/{study}"]):  # purged meanwhile
            self._blobs.delete(job_id)
            return ""
        return study

    def _headers(self, job_id: str) -> dict[str, Attributes]:
        found: dict[str, Attributes] = {}
        for name in self._blobs.names(job_id):
            if name.endswith(".dcm") and not name.startswith("input"):
                with self._blobs.local(job_id, name) as path:
                    found[name] = dicom_json(dcmread(path, stop_before_pixels=True, specific_tags=list(_INDEXED)))
        return found
