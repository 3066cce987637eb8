"""Uploads and results by URL: a local folder by default, any fsspec file system (S3) for several machines.

Volumes never travel through the broker. Keys are ``jobs/ID/NAME``; names never come from the user. What is not a job's
(yet) lies beside the jobs, in a folder of its own.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from unet_factory.platform.atomic_files import PARTIAL_SUFFIX, storage_errors, whole_file
from unet_factory.platform.free_space import FreeSpace
from unet_factory.platform.private_files import OWNER_AND_GROUP, OWNER_ONLY, make_private

_JOBS = "jobs"
_SCRATCH = "scratch"
_FULL = "there is no space left for uploads and results; try again later"


class BlobStore:
    """Files of jobs. Local results are written beside their place and renamed, so nobody ever sees half a file."""

    def __init__(self, url: str, collection: str = _JOBS, *, min_free_bytes: int | None = None) -> None:
        """``min_free_bytes`` is what a local store leaves free of its disk; None: by the size of the disk."""
        self._fs, self._root = fsspec.core.url_to_fs(url)
        self._collection = collection
        self._free_space: FreeSpace | None = None
        if self._is_local:
            root = Path(self._root)
            root.mkdir(mode=OWNER_ONLY, parents=True, exist_ok=True)  # scans are for nobody else's eyes
            self._free_space = FreeSpace(root, min_free_bytes)
        self._fs.makedirs(f"{self._root}/{collection}", exist_ok=True)
        if self._is_local:  # a group may have been let in on purpose, as where several users run roles
            make_private(Path(self._root, collection), OWNER_AND_GROUP)

    def check_room(self, wanted_bytes: int, *, accepted: bool = False) -> None:
        """Refuse bytes that would leave too little room on a local store's disk.

        Args:
            accepted: they belong to what was accepted before, which may use more of the disk than what is new.

        Raises:
            StorageFull: there is not enough room.
        """
        if self._free_space is not None:
            self._free_space.check(wanted_bytes, accepted=accepted)

    def put(self, job_id: str, name: str, source: Path) -> None:
        """Move a local file into the store.

        Raises:
            StorageFull: there is no space for it; nothing is left behind.
        """
        target = self._path(job_id, name)
        self.check_room(0, accepted=True)
        with storage_errors(_FULL):
            self._fs.makedirs(self._folder(job_id), exist_ok=True)
            if self._is_local:
                with whole_file(Path(target)) as partial:
                    shutil.move(source, partial)
            else:
                self._fs.put_file(str(source), target)
                source.unlink(missing_ok=True)

    def size(self, job_id: str, name: str) -> int:
        """Size of a file in bytes; 0 if it does not exist."""
        try:
            return int(self._fs.size(self._path(job_id, name)))
        except FileNotFoundError:
            return 0

    def stored_bytes(self, job_id: str) -> int:
        """Of all files of a job together."""
        return sum(self.size(job_id, name) for name in self.names(job_id))

    def remove(self, job_id: str, name: str) -> None:
        """One file of a job; no error when it is not there."""
        with suppress(FileNotFoundError):
            self._fs.rm_file(self._path(job_id, name))

    @contextmanager
    def local(self, job_id: str, name: str) -> Iterator[Path]:
        """The blob as a local file for the duration of the block (a temporary copy unless the store is local).

        Raises:
            FileNotFoundError: there is no such blob.
        """
        if self._is_local:
            path = Path(self._path(job_id, name))
            if not path.is_file():
                raise FileNotFoundError(f"{self._collection}/{job_id}/{name}")
            yield path
            return
        with self.scratch() as folder:
            copy = folder / name
            self._fs.get_file(self._path(job_id, name), str(copy))
            yield copy

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A temporary folder, on the store's own disk where that is local, gone after the block.

        One that a killed process leaves behind goes with :meth:`purge_scratch`.
        """
        with storage_errors(_FULL):
            self._scratch.mkdir(mode=OWNER_ONLY, parents=True, exist_ok=True)
            if not self._is_local and self._scratch.lstat().st_uid != os.getuid():
                raise RuntimeError(f"{self._scratch} belongs to another user, but scans would be stored in it")
            with tempfile.TemporaryDirectory(dir=self._scratch) as folder:
                yield Path(folder)

    def purge_scratch(self, untouched_s: float) -> None:
        """Remove temporary folders that a killed process left behind: those not written to for that long."""
        for folder in self._scratch.glob("*"):
            with suppress(FileNotFoundError):  # its owner has just removed it
                touched = max(path.stat().st_mtime for path in (folder, *folder.rglob("*")))
                if time.time() - touched > untouched_s:
                    shutil.rmtree(folder)

    def delete(self, job_id: str) -> None:
        """Everything of a job; no error when there is nothing, or when somebody else deletes it at the same time."""
        folder = self._folder(job_id)
        while self._fs.exists(folder):
            with suppress(FileNotFoundError):
                self._fs.rm(folder, recursive=True)

    def job_ids(self) -> Iterator[tuple[str, float]]:
        """(job id, modification time in seconds since the epoch) of every job that has files here."""
        for entry in self._fs.ls(f"{self._root}/{self._collection}", detail=True, refresh=True):
            yield Path(str(entry["name"])).name, _modified(entry)

    def names(self, job_id: str) -> list[str]:
        """What a job has here, whole files only, in alphabetical order."""
        try:
            listed = self._fs.ls(self._folder(job_id), detail=False, refresh=True)
        except FileNotFoundError:
            return []
        return sorted(name for path in listed if not (name := Path(str(path)).name).endswith(PARTIAL_SUFFIX))

    @property
    def _is_local(self) -> bool:
        return isinstance(self._fs, LocalFileSystem)

    @property
    def _scratch(self) -> Path:
        """For a store elsewhere, a folder of this user's on this machine: to be swept by its own processes."""
        if self._is_local:
            return Path(self._root, _SCRATCH)
        return Path(tempfile.gettempdir(), f"unet-factory-scratch-{os.getuid()}")

    def _path(self, job_id: str, name: str) -> str:
        return f"{self._folder(job_id)}/{name}"

    def _folder(self, job_id: str) -> str:
        return f"{self._root}/{self._collection}/{job_id}"


def _modified(entry: dict[str, Any]) -> float:
    modified = entry.get("mtime") or entry.get("LastModified") or 0.0
    return modified.timestamp() if hasattr(modified, "timestamp") else float(modified)
