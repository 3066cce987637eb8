"""What a store leaves free of its disk: all of the floor for what is new, half of it for what was accepted before."""

import shutil
from pathlib import Path

import pytest

from unet_factory.domain.errors import StorageFull
from unet_factory.platform.blob_store import BlobStore

FLOOR_BYTES = 64 * 2**10


def test_new_data_leaves_the_floor_free_and_accepted_data_half_of_it(small_disk: Path) -> None:
    store = BlobStore(small_disk.as_uri(), min_free_bytes=FLOOR_BYTES)
    free = shutil.disk_usage(small_disk).free
    for accepted, floor in ((False, FLOOR_BYTES), (True, FLOOR_BYTES // 2)):
        store.check_room(free - floor, accepted=accepted)
        with pytest.raises(StorageFull, match=f"{free} are free, {floor} must stay free"):
            store.check_room(free - floor + 1, accepted=accepted)


def test_a_result_that_would_take_the_journals_room_is_refused(small_disk: Path) -> None:
    store = BlobStore(small_disk.as_uri(), min_free_bytes=FLOOR_BYTES)
    with store.scratch() as folder:
        (folder / "filler").write_bytes(bytes(shutil.disk_usage(small_disk).free - FLOOR_BYTES // 2 - 4096))
        (folder / "small").write_bytes(b"x")
        store.put("job", "small", folder / "small")
        (folder / "large").write_bytes(bytes(8192))
        with pytest.raises(StorageFull):
            store.put("job", "large", folder / "large")
    assert store.names("job") == ["small"]


def test_without_a_setting_a_fifth_of_a_small_disk_stays_free(small_disk: Path) -> None:
    usage = shutil.disk_usage(small_disk)
    store = BlobStore(small_disk.as_uri())
    store.check_room(usage.free - usage.total // 5)
    with pytest.raises(StorageFull):
        store.check_room(usage.free - usage.total // 5 + 1)


def test_no_floor_refuses_nothing(small_disk: Path) -> None:
    BlobStore(small_disk.as_uri(), min_free_bytes=0).check_room(2**40)


def test_a_store_that_was_open_to_everybody_is_closed_to_all_but_a_group_that_was_let_in(tmp_path: Path) -> None:
    jobs = tmp_path / "blobs" / "jobs"
    jobs.mkdir(parents=True)
    jobs.chmod(0o775)
    BlobStore((tmp_path / "blobs").as_uri())
    assert jobs.stat().st_mode & 0o777 == 0o770
