"""The DICOM objects that jobs made, as QIDO-RS and WADO-RS see them: an index that goes with the jobs.

``dicom:results`` in Redis (hash) names every job whose scan was DICOM, with a digest of its study once that is known.
What its objects say of the patient lies among the job's files. A job is read into the index by the first who asks after
it has succeeded.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread
from redis import Redis

from unet_factory.domain.errors import JobExpired, JobUnknown
from unet_factory.domain.jobs import JobState
from unet_factory.domain.uids import uid_digest
from unet_factory.jobs.keys import DICOM_RESULTS
from unet_factory.jobs.store import JobStore
from unet_factory.platform.blob_store import BlobStore
from unet_factory_service.access.callers import Caller

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
    header: Dataset


class ResultIndex:
    """Safe to share between threads and gateways."""

    def __init__(self, redis: Redis, jobs: JobStore, blobs: BlobStore) -> None:
        self._redis, self._jobs, self._blobs = redis, jobs, blobs
        self._set_if_known = redis.register_script(_SET_IF_KNOWN)

    def expect(self, job_id: str) -> None:
        """A job whose scan is DICOM was made: it may have results one day."""
        self._redis.hset(DICOM_RESULTS, job_id, "")

    def instances(self, caller: Caller, study_uid: str | None = None) -> list[StoredInstance]:
        """All objects of the caller's jobs, or those of one study, as their jobs were made."""
        known: Any = self._redis.hgetall(DICOM_RESULTS)
        wanted = None if study_uid is None else uid_digest(study_uid)
        found = []
        for raw_id, raw_study in known.items():
            job_id, study = raw_id.decode(), raw_study.decode() or self._index(raw_id.decode())
            if study and wanted in (None, study) and self._seen_by(caller, job_id):
                found += self._of_job(job_id)
        return found

    @contextmanager
    def file(self, instance: StoredInstance) -> Iterator[Path]:
        """
        Raises:
            FileNotFoundError: it was purged meanwhile.
        """
        with self._blobs.local(instance.job_id, instance.name) as path:
            yield path

    def _seen_by(self, caller: Caller, job_id: str) -> bool:
        with suppress(JobUnknown):
            return caller.sees(self._jobs, job_id)
        return False

    def _of_job(self, job_id: str) -> list[StoredInstance]:
        try:
            with self._blobs.local(job_id, _INDEX) as path:
                entries = json.loads(path.read_bytes())
        except FileNotFoundError:
            return []
        return [StoredInstance(job_id, entry["name"], Dataset.from_json(entry["header"])) for entry in entries]

    def _index(self, job_id: str) -> str:
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
        study = uid_digest(str(next(iter(headers.values())).StudyInstanceUID))
        entries = [{"name": name, "header": header.to_json_dict()} for name, header in headers.items()]
        with self._blobs.scratch() as folder:
            (folder / _INDEX).write_text(json.dumps(entries))
            self._blobs.put(job_id, _INDEX, folder / _INDEX)
        if not self._set_if_known(keys=[DICOM_RESULTS], args=[job_id, study]):  # purged meanwhile
            self._blobs.delete(job_id)
            return ""
        return study

    def _headers(self, job_id: str) -> dict[str, Dataset]:
        found: dict[str, Dataset] = {}
        for name in self._blobs.names(job_id):
            if name.endswith(".dcm") and not name.startswith("input"):
                with self._blobs.local(job_id, name) as path:
                    found[name] = dcmread(path, stop_before_pixels=True, specific_tags=list(_INDEXED))
        return found
