"""Copies that processes map together are whole, are made once, and cost no start where they cannot be made."""

import hashlib
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


def test_only_copies_of_files_that_are_gone_are_removed(original: Path, tmp_path: Path) -> None:
    shared = SharedCopies(tmp_path)
    copy = shared.copy_of(original, DIGEST)
    shared.keep_only({DIGEST})
    assert copy is not None
    assert copy.exists()
    shared.keep_only(set())
    assert list(tmp_path.iterdir()) == [original]


def test_where_no_copy_can_be_made_it_is_told(original: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A folder that cannot be made, and a file that is no longer the one that was meant."""
    assert SharedCopies(original / "shared").copy_of(original, DIGEST) is None
    assert "model.safetensors is not shared with other workers" in caplog.text
    assert SharedCopies(tmp_path / "shared").copy_of(original, "0" * 64) is None
