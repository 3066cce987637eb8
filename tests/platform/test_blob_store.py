"""A job's files while several processes handle them."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from unet_factory.platform.blob_store import BlobStore

JOBS, DELETERS = 40, 4


def test_several_may_delete_the_same_files_at_once(tmp_path: Path) -> None:
    """As a gateway and a worker do when a running job is cancelled."""
    blobs = BlobStore((tmp_path / "blobs").as_uri())
    job_ids = [f"{number:032x}" for number in range(JOBS)]
    for job_id in job_ids:
        folder = tmp_path / "blobs" / "jobs" / job_id
        folder.mkdir(parents=True)
        for name in "abc":
            (folder / name).touch()
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(DELETERS) as pool:
            list(pool.map(blobs.delete, [job_id for job_id in job_ids for _ in range(DELETERS)]))
    finally:
        sys.setswitchinterval(interval_s)
    assert list(blobs.job_ids()) == []
