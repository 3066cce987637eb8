"""S3, and what speaks its protocol, as a file system whose failures are ours.

Credentials, region, endpoint and certificates are found as every AWS tool finds them: in ``AWS_*`` variables and in the
files that they name. The bucket must exist.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import fsspec

from unet_factory.domain.errors import FactoryError, StorageFull, StorageUnavailable
from unet_factory.platform.atomic_files import FULL_DISK_ERRNOS

log = logging.getLogger(__name__)

PART_BYTES = 8 * 2**20
SILENT_FOR_S = 60.0

_SLOWEST_BYTES_PER_S = 2**20
_PARTS_AT_ONCE = 4  # of one file: so much of it is in memory
_ATTEMPTS = 2  # of one request by botocore, at failures of the connection and of the server; s3fs makes _ROUNDS of them
_ROUNDS = 2
_S3_OPTIONS: dict[str, Any] = {
    "use_listings_cache": False,  # other processes change what is listed
    "max_concurrency": _PARTS_AT_ONCE,
    "default_block_size": PART_BYTES,
    "config_kwargs": {
        "connect_timeout": 3,
        "read_timeout": 15,
        "retries": {"mode": "standard", "total_max_attempts": _ATTEMPTS},
    },
}
_FULL_CODES = ("XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "QuotaExceeded", "InsufficientStorage")
_FULL_STATUS = 507
_NO_BUCKET = "NoSuchBucket"


def open_file_system(url: str) -> tuple[Any, str]:
    """The fsspec file system that ``url`` names, and the path in it; nothing is connected yet.

    Raises:
        RuntimeError: the package for this kind of store is not installed.
    """
    is_s3 = url.startswith(("s3://", "s3a://"))
    try:
        files, root = fsspec.core.url_to_fs(url, **(_S3_OPTIONS if is_s3 else {}))
    except ImportError as error:
        raise RuntimeError(f"a blob store on {url.partition(':')[0]} needs one more package: {error}") from None
    if is_s3:
        files.retries = _ROUNDS
    return files, root.rstrip("/")


@contextmanager
def object_store_errors() -> Iterator[None]:
    """Tell what the store's libraries raise by its meaning.

    Raises:
        FileNotFoundError: there is no such object.
        StorageFull: the store, or the disk of a local copy, has no room.
        StorageUnavailable: anything else: the store is away, slow, overloaded or refuses the credentials.
    """
    try:
        yield
    except FactoryError:
        raise
    except Exception as error:
        code, status = _answer(error)
        if isinstance(error, FileNotFoundError) and code != _NO_BUCKET:
            raise
        if code in _FULL_CODES or status == _FULL_STATUS:
            raise StorageFull("the store for scans and results is full; try again later") from error
        if isinstance(error, OSError) and error.errno in FULL_DISK_ERRNOS:
            raise StorageFull(f"there is no space for a copy of the scan: {error.strerror}") from error
        log.warning("the blob store failed: %s", code or type(error).__name__)
        raise StorageUnavailable("the store for scans and results is not available at the moment; try again") from error


def upload_timeout_s(size_bytes: int) -> float:
    """When an upload is given up: the library's own limits do not hold while it awaits the store's consent to a PUT."""
    return SILENT_FOR_S + size_bytes / _SLOWEST_BYTES_PER_S


def abort_unfinished_uploads(files: Any, root: str, older_than_s: float) -> None:
    """Drop the parts of large files whose upload was never completed: their process was killed. S3 lists them nowhere
    else, and keeps them."""
    bucket, _, prefix = root.partition("/")
    for upload in files.list_multipart_uploads(bucket):
        age_s = time.time() - upload["Initiated"].timestamp()
        if upload["Key"].startswith(f"{prefix}/" if prefix else "") and age_s > older_than_s:
            files.call_s3("abort_multipart_upload", Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])


def _answer(error: Exception) -> tuple[str, int]:
    """The store's own error code and HTTP status; empty and 0 where it did not answer."""
    response = getattr(error, "response", None) or getattr(error.__cause__, "response", None) or {}
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return str(response.get("Error", {}).get("Code", "")), int(status)
