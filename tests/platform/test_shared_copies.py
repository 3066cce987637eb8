"""Copies that processes map together are whole, are made once, and cost no start where they cannot be made."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from unet_factory.platform.shared_copies import SharedCopies

CONTENT = bytes(range(256)) * 40
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def original(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    path.write_bytes(CONTENT)
    return path


def test_a_copy_is_made_once_and_stays_what_it_was(original: Path, tmp_path: Path) -> None:
    shared = SharedCopies(tmp_path / "shared")
    copy = shared.copy_of(original, DIGEST)
    assert copy is not None
    made = copy.stat()
    original.write_bytes(b"something else")
    assert shared.copy_of(original, DIGEST) == copy
    assert SharedCopies(tmp_path / "shared").copy_of(original, DIGEST) == copy
    assert (copy.read_bytes(), copy.stat().st_ino) == (CONTENT, made.st_ino)


def test_a_copy_that_a_crash_cut_is_made_again(original: Path, tmp_path: Path) -> None:
    shared = SharedCopies(tmp_path / "shared")
    copy = shared.copy_of(original, DIGEST)
    assert copy is not None
    copy.unlink()
    copy.write_bytes(CONTENT[:100])
    assert shared.copy_of(original, DIGEST) == copy
    assert copy.read_bytes() == CONTENT


def test_only_old_copies_of_files_that_are_gone_are_removed(original: Path, tmp_path: Path) -> None:
    """Of whole ones and of what a killed worker left; other files in the folder are not touched."""
    shared = SharedCopies(tmp_path)
    copy = shared.copy_of(original, DIGEST)
    assert copy is not None
    left = tmp_path / f"{'0' * 64}.shared-weightsabcdefgh"
    left.write_bytes(CONTENT[:100])
    shared.keep_only(set())
    assert set(tmp_path.iterdir()) == {original, copy, left}
    for path in tmp_path.iterdir():
        os.utime(path, (0, 0))
    shared.keep_only({DIGEST})
    assert set(tmp_path.iterdir()) == {original, copy}
    shared.keep_only(set())
    assert set(tmp_path.iterdir()) == {original}


def test_many_workers_at_once_get_the_very_same_copy(original: Path, tmp_path: Path) -> None:
    def inode(_: int) -> int:
        copy = SharedCopies(tmp_path / "shared").copy_of(original, DIGEST)
        assert copy is not None
        assert copy.read_bytes() == CONTENT
        return copy.stat().st_ino

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(inode, range(32)))) == 1
    assert len(list((tmp_path / "shared").iterdir())) == 1


def test_where_no_copy_can_be_made_it_is_told(original: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A folder that cannot be made, and a file that is no longer the one that was meant."""
    assert SharedCopies(original / "shared").copy_of(original, DIGEST) is None
    assert "model.safetensors is read into this worker's own memory" in caplog.text
    assert SharedCopies(tmp_path / "shared").copy_of(original, "0" * 64) is None
    assert list((tmp_path / "shared").iterdir()) == []
