"""Uploads and results by URL: a local folder by default, S3 or another fsspec file system for several machines.

Volumes never travel through the broker. Keys are ``jobs/ID/NAME``; names never come from the user. What is not a job's
(yet) lies beside the jobs, in a folder of its own. A file appears whole or not at all, in either kind of store.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path, PurePosixPath
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from unet_factory.domain.errors import StorageUnavailable
from unet_factory.platform.atomic_files import PARTIAL_SUFFIX, storage_errors, whole_file
from unet_factory.platform.free_space import FreeSpace
from unet_factory.platform.object_store import (
    PART_BYTES,
    abort_unfinished_uploads,
    object_store_errors,
    open_file_system,
    upload_timeout_s,
)
from unet_factory.platform.private_files import OWNER_AND_GROUP, OWNER_ONLY, make_private

_JOBS = "jobs"
_SCRATCH = "scratch"
_FULL = "there is no space left for uploads and results; try again later"


class BlobStore:
    """Files of jobs.

    Local results are written beside their place and renamed. Every method may also raise StorageUnavailable, where the
    store is not local: it is away, overloaded or refuses us.
    """

    def __init__(self, url: str, collection: str = _JOBS, *, min_free_bytes: int | None = None) -> None:
        """Connects to nothing yet.

        Args:
            min_free_bytes: what stays free of a local store's disk, or else of that for temporary copies; None: by the
                size of the disk.

        Raises:
            RuntimeError: the package for this kind of store is not installed.
        """
        self._fs, self._root = open_file_system(url)
        self._collection = collection
        disk = Path(self._root if self.is_local else tempfile.gettempdir())
        if self.is_local:
            disk.mkdir(mode=OWNER_ONLY, parents=True, exist_ok=True)  # scans are for nobody else's eyes
            Path(disk, collection).mkdir(exist_ok=True)
            # a group may have been let in on purpose, as where several users run roles
            make_private(Path(disk, collection), OWNER_AND_GROUP)
        self._free_space = FreeSpace(disk, min_free_bytes)

    @property
    def is_local(self) -> bool:
        """Whether the files lie on a disk of this machine."""
        return isinstance(self._fs, LocalFileSystem)

    def check_room(self, wanted_bytes: int, *, accepted: bool = False) -> None:
        """Refuse bytes that would leave too little room on the disk of a local store, or of temporary copies.

        Args:
            accepted: they belong to what was accepted before, which may use more of the disk than what is new.

        Raises:
            StorageFull: there is not enough room.
        """
        self._free_space.check(wanted_bytes, accepted=accepted)

    def disk_usage(self) -> tuple[int, int]:
        """Bytes free and bytes in all on the disk of a local store, or of temporary copies."""
        return self._free_space.usage()

    def put(self, job_id: str, name: str, source: Path) -> None:
        """Move a local file into the store.

        Raises:
            StorageFull: there is no space for it; nothing is left behind.
        """
        target = self._path(job_id, name)
        if not self.is_local:
            self._upload(source, target)
            return
        self.check_room(0, accepted=True)
        with storage_errors(_FULL):
            Path(target).parent.mkdir(parents=True, exist_ok=True)
            with whole_file(Path(target)) as partial:
                shutil.move(source, partial)

    def size(self, job_id: str, name: str) -> int:
        """Size of a file in bytes; 0 if it does not exist."""
        try:
            with self._errors():
                return int(self._fs.size(self._path(job_id, name)))
        except FileNotFoundError:
            return 0

    def stored_bytes(self, job_id: str) -> int:
        """Of all files of a job together."""
        return sum(int(entry["size"]) for entry in self._entries(job_id))

    def remove(self, job_id: str, name: str) -> None:
        """One file of a job; no error when it is not there."""
        with suppress(FileNotFoundError), self._errors():
            self._fs.rm_file(self._path(job_id, name))

    @contextmanager
    def local(self, job_id: str, name: str) -> Iterator[Path]:
        """The blob as a local file for the duration of the block (a temporary copy unless the store is local).

        Raises:
            FileNotFoundError: there is no such blob.
        """
        if self.is_local:
            path = Path(self._path(job_id, name))
            if not path.is_file():
                raise FileNotFoundError(f"{self._collection}/{job_id}/{name}")
            yield path
            return
        with self.scratch() as folder:
            copy = folder / name
            with self._errors():
                self._fs.get_file(self._path(job_id, name), str(copy))
            yield copy

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A temporary folder, on the store's own disk where that is local, gone after the block.

        One that a killed process leaves behind goes with :meth:`purge_scratch`.
        """
        with storage_errors(_FULL):
            self._scratch.mkdir(mode=OWNER_ONLY, parents=True, exist_ok=True)
            if not self.is_local and self._scratch.lstat().st_uid != os.getuid():
                raise RuntimeError(f"{self._scratch} belongs to another user, but scans would be stored in it")
            with tempfile.TemporaryDirectory(dir=self._scratch) as folder:
                yield Path(folder)

    def purge_scratch(self, untouched_s: float) -> None:
        """Remove temporary folders that a killed process left behind: those not written to for that long.

        Their age is judged by the file system's clock, since this process's own may be wrong.
        """
        if not self._scratch.exists():
            return
        with tempfile.TemporaryFile(dir=self._scratch) as fresh:
            now = os.fstat(fresh.fileno()).st_mtime
        for folder in self._scratch.glob("*"):
            with suppress(FileNotFoundError):  # its owner has just removed it
                touched = max(path.stat().st_mtime for path in (folder, *folder.rglob("*")))
                if now - touched > untouched_s:
                    shutil.rmtree(folder)

    def delete(self, job_id: str) -> None:
        """Everything of a job; no error when there is nothing, or when somebody else deletes it at the same time."""
        folder = self._folder(job_id)
        with self._errors():
            while self._fs.exists(folder) if self.is_local else self._fs.find(folder):
                with suppress(FileNotFoundError):
                    self._fs.rm(folder, recursive=True)

    def job_ids(self) -> Iterator[tuple[str, float]]:
        """(job id, when its newest file came, in seconds since the epoch) of every job that has files here."""
        root = f"{self._root}/{self._collection}"
        if self.is_local:
            for folder in Path(root).iterdir():
                with suppress(FileNotFoundError):  # deleted in this moment
                    yield folder.name, folder.stat().st_mtime
            return
        newest: dict[str, float] = {}
        with self._errors():
            for path, entry in self._fs.find(root, detail=True).items():
                job_id = PurePosixPath(path).relative_to(root).parts[0]
                newest[job_id] = max(newest.get(job_id, 0.0), _modified(entry))
        yield from newest.items()

    def purge_unfinished(self, older_than_s: float) -> None:
        """Drop what killed processes left of uploads to S3; a local store's are among the job's files."""
        if "s3" in self._fs.protocol:
            with self._errors():
                abort_unfinished_uploads(self._fs, f"{self._root}/{self._collection}", older_than_s)

    def names(self, job_id: str) -> list[str]:
        """What a job has here, whole files only, in alphabetical order."""
        names = (PurePosixPath(str(entry["name"])).name for entry in self._entries(job_id))
        return sorted(name for name in names if not name.endswith(PARTIAL_SUFFIX))

    def _entries(self, job_id: str) -> list[dict[str, Any]]:
        with self._errors():
            return list(self._fs.find(self._folder(job_id), detail=True).values())

    def _upload(self, source: Path, target: str) -> None:
        """S3 shows an object when all of it has come, and not before."""
        try:
            with self._errors():
                timeout_s = upload_timeout_s(source.stat().st_size)
                self._fs.put_file(str(source), target, chunksize=PART_BYTES, timeout=timeout_s)
        except FileNotFoundError as error:
            raise StorageUnavailable("the store for scans and results has no such place") from error
        source.unlink(missing_ok=True)

    def _errors(self) -> AbstractContextManager[None]:
        """A local store's stay as they are."""
        return nullcontext() if self.is_local else object_store_errors()

    @property
    def _scratch(self) -> Path:
        """For a store elsewhere, a folder of this user's on this machine: to be swept by its own processes."""
        if self.is_local:
            return Path(self._root, _SCRATCH)
        return Path(tempfile.gettempdir(), f"unet-factory-scratch-{os.getuid()}")

    def _path(self, job_id: str, name: str) -> str:
        return f"{self._folder(job_id)}/{name}"

    def _folder(self, job_id: str) -> str:
        return f"{self._root}/{self._collection}/{job_id}"


def _modified(entry: dict[str, Any]) -> float:
    """As S3 and fsspec's other file systems tell it; now, where they do not: what may be new is kept."""
    told = entry.get("LastModified") or entry.get("mtime") or entry.get("created") or time.time()
    return float(told.timestamp() if hasattr(told, "timestamp") else told)
