"""Files of jobs in a real S3 server, while requests to it are lost, late or refused."""

import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
import s3fs

from tests.fixtures.s3 import BUCKET, FAULTS, FaultyProxy, direct, s3_environment, s3_server
from unet_factory.domain.errors import StorageFull, StorageUnavailable
from unet_factory.platform.blob_store import BlobStore
from unet_factory.platform.object_store import object_store_errors

T = TypeVar("T")

JOB, OTHER = "a" * 32, "b" * 32
URL = f"s3://{BUCKET}/factory"
LARGE = 17 * 2**20  # several parts


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with s3_server(tmp_path_factory.mktemp("s3") / "moto.log") as port:
        yield port


@pytest.fixture(scope="module")
def shared_proxy(server: int) -> Iterator[FaultyProxy]:
    proxy = FaultyProxy(server)
    proxy.start()
    with s3_environment(proxy.port):
        yield proxy
    proxy.stop()


@pytest.fixture
def proxy(shared_proxy: FaultyProxy) -> Iterator[FaultyProxy]:
    yield shared_proxy
    shared_proxy.every = 0


@pytest.fixture
def blobs(proxy: FaultyProxy, server: int) -> Iterator[BlobStore]:
    yield BlobStore(URL)
    files = direct(server)
    if left := files.find(f"{BUCKET}/factory"):
        files.rm(left)


def written(folder: Path, content: bytes, name: str = "source") -> Path:
    (folder / name).write_bytes(content)
    return folder / name


def content(blobs: BlobStore, name: str, job_id: str = JOB) -> bytes:
    with blobs.local(job_id, name) as path:
        return path.read_bytes()


def test_an_object_store_keeps_files_as_a_local_folder_does(blobs: BlobStore, tmp_path: Path) -> None:
    for store in (blobs, BlobStore((tmp_path / "local").as_uri())):
        assert (store.names(JOB), store.stored_bytes(JOB), store.size(JOB, "b")) == ([], 0, 0)
        for name, data in (("b", b"first"), ("a", b"other"), ("b", b"again")):
            source = written(tmp_path, data)
            store.put(JOB, name, source)
            assert not source.exists()
        store.put(OTHER, "b", written(tmp_path, b"of another job"))
        assert (store.names(JOB), store.stored_bytes(JOB), store.size(JOB, "b")) == (["a", "b"], 10, 5)
        assert (content(store, "b"), content(store, "a")) == (b"again", b"other")
        store.remove(JOB, "a")
        store.remove(JOB, "never there")
        assert store.names(JOB) == ["b"]
        listed = dict(store.job_ids())
        assert set(listed) == {JOB, OTHER}
        assert all(abs(time.time() - modified) < 60 for modified in listed.values()), "new files must not look old"
        store.delete(JOB)
        store.delete(JOB)
        assert (store.names(JOB), store.names(OTHER)) == ([], ["b"])
        with pytest.raises(FileNotFoundError), store.local(JOB, "b"):
            pass


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # aiohttp, of connections that were cut
def test_requests_that_are_cut_late_or_refused_cost_nothing(
    blobs: BlobStore, proxy: FaultyProxy, tmp_path: Path
) -> None:
    data = os.urandom(LARGE)
    proxy.every = 3
    while not all(proxy.faults[fault] for fault in FAULTS):
        patiently(lambda: blobs.put(JOB, "large", written(tmp_path, data)))
        patiently(lambda: blobs.put(JOB, "small", written(tmp_path, data[:1000])))
        assert patiently(lambda: content(blobs, "large")) == data
        assert patiently(lambda: content(blobs, "small")) == data[:1000]
        assert patiently(lambda: blobs.names(JOB)) == ["large", "small"]
        patiently(lambda: blobs.delete(JOB))
        assert patiently(lambda: blobs.names(JOB)) == []


def test_a_store_that_is_away_says_so_keeps_the_file_and_works_again_when_it_is_back(
    blobs: BlobStore, proxy: FaultyProxy, server: int, tmp_path: Path
) -> None:
    blobs.put(JOB, "before", written(tmp_path, b"before"))
    proxy.stop()
    source = written(tmp_path, b"scan")
    for attempt in (
        lambda: blobs.put(JOB, "scan", source),
        lambda: content(blobs, "before"),
        lambda: blobs.names(JOB),
        lambda: blobs.delete(JOB),
        lambda: list(blobs.job_ids()),
    ):
        with pytest.raises(StorageUnavailable):
            attempt()
    assert source.read_bytes() == b"scan"
    assert direct(server).find(f"{BUCKET}/factory/jobs") == [f"{BUCKET}/factory/jobs/{JOB}/before"]
    proxy.start()
    blobs.put(JOB, "scan", source)
    assert content(blobs, "scan") == b"scan"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # aiohttp, of connections given up
def test_a_store_that_accepts_connections_and_says_nothing_is_given_up(
    proxy: FaultyProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unet_factory.platform.object_store.SILENT_FOR_S", 2.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(5.0)
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{silent.getsockname()[1]}")
        source = written(tmp_path, b"scan")
        s3fs.S3FileSystem.clear_instance_cache()  # the endpoint is no part of its key
        try:
            with pytest.raises(StorageUnavailable):
                BlobStore(URL).put(JOB, "scan", source)
        finally:
            s3fs.S3FileSystem.clear_instance_cache()
        assert silent.accept()
        assert source.exists()


def test_a_missing_bucket_is_never_taken_for_missing_files(proxy: FaultyProxy, tmp_path: Path) -> None:
    nowhere = BlobStore("s3://no-such-bucket/factory")
    for attempt in (
        lambda: nowhere.put(JOB, "scan", written(tmp_path, b"scan")),
        lambda: content(nowhere, "scan"),
        lambda: nowhere.names(JOB),
        lambda: nowhere.delete(JOB),
    ):
        with pytest.raises(StorageUnavailable):
            attempt()


def test_parts_of_a_file_whose_upload_was_killed_are_dropped_and_others_go_on(blobs: BlobStore, server: int) -> None:
    files = direct(server)
    for key in ("factory/jobs/x/large", "elsewhere/large"):
        files.call_s3("create_multipart_upload", Bucket=BUCKET, Key=key)
    blobs.purge_unfinished(older_than_s=100 * 365 * 86400)  # this server says of each that it began in 2010
    assert len(files.list_multipart_uploads(BUCKET)) == 2
    blobs.purge_unfinished(older_than_s=3600)
    assert [upload["Key"] for upload in files.list_multipart_uploads(BUCKET)] == ["elsewhere/large"]
    files.clear_multipart_uploads(BUCKET)


def test_a_process_forked_while_the_store_was_in_use_opens_its_own(blobs: BlobStore, tmp_path: Path) -> None:
    """As a worker's child is, when its predecessor was killed."""
    blobs.put(JOB, "scan", written(tmp_path, b"scan"))
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if content(BlobStore(URL), "scan") == b"scan" else 2
        finally:
            os._exit(code)
    deadline = time.monotonic() + 60
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
        assert time.monotonic() < deadline, "the child hangs"
        time.sleep(0.02)
    assert os.waitstatus_to_exitcode(ended[1]) == 0


def test_a_full_store_or_disk_is_told_from_one_that_is_away() -> None:
    refusal = OSError("XMinioStorageFull")
    refusal.__cause__ = _Refused("XMinioStorageFull", 507)
    for full in (refusal, OSError(28, "No space left on device")):
        with pytest.raises(StorageFull), object_store_errors():
            raise full
    for away in (PermissionError("denied"), TimeoutError(), OSError(5, "EIO")):
        with pytest.raises(StorageUnavailable) as told, object_store_errors():
            raise away
        assert "denied" not in str(told.value)


class _Refused(Exception):
    def __init__(self, code: str, status: int) -> None:
        super().__init__(code)
        self.response = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}


def patiently(work: Callable[[], T], rounds: int = 20) -> T:
    """As callers and workers do: what was refused as unavailable is asked for again."""
    for _ in range(rounds):
        try:
            return work()
        except StorageUnavailable:
            continue
    raise AssertionError(f"unavailable {rounds} times")
