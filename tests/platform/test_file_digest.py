"""A file is read once for its digest, and again as soon as it may be another."""

import hashlib
import os
from pathlib import Path

import pytest

from unet_factory.platform import file_digest as module
from unet_factory.platform.file_digest import file_digest


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each time that a whole file was read."""
    done: list[int] = []
    whole = hashlib.file_digest

    def counted(file: object, algorithm: str) -> object:
        done.append(1)
        return whole(file, algorithm)  # type: ignore[arg-type]

    monkeypatch.setattr(module.hashlib, "file_digest", counted)  # type: ignore[attr-defined]
    return done


@pytest.fixture
def at_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that were written just now count as settled."""
    monkeypatch.setattr(module, "_SETTLED_AFTER_NS", -(10**9))


@pytest.mark.usefixtures("at_rest")
def test_a_file_that_stays_is_read_once_under_any_name(tmp_path: Path, reads: list[int]) -> None:
    path = tmp_path / "a"
    path.write_bytes(os.urandom(2**16))
    assert file_digest(path) == file_digest(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    assert file_digest(path.rename(tmp_path / "b")) == hashlib.sha256((tmp_path / "b").read_bytes()).hexdigest()
    assert len(reads) <= 2  # renaming is a change to the file's own record


def test_a_file_that_changed_just_now_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reads: list[int]
) -> None:
    """It may change twice in one tick of its file system's clock."""
    monkeypatch.setattr(module, "_SETTLED_AFTER_NS", 3600 * 10**9)
    path = tmp_path / "a"
    path.write_bytes(b"1" * 1000)
    assert file_digest(path) == file_digest(path)
    assert len(reads) == 2


@pytest.mark.parametrize("in_place", [True, False])
def test_a_replaced_file_of_equal_size_and_time_has_its_own_digest(tmp_path: Path, in_place: bool) -> None:
    path, other = tmp_path / "a", tmp_path / "b"
    path.write_bytes(b"1" * 1000)
    status = path.stat()
    before = file_digest(path)
    other.write_bytes(b"2" * 1000)
    if in_place:
        path.write_bytes(other.read_bytes())
    else:
        other.replace(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + (1 if in_place else 0)))
    assert file_digest(path) == hashlib.sha256(b"2" * 1000).hexdigest() != before


@pytest.mark.usefixtures("at_rest")
def test_only_so_many_are_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reads: list[int]) -> None:
    monkeypatch.setattr(module, "_REMEMBERED", 2)
    paths = [tmp_path / str(number) for number in range(3)]
    for path in paths:
        path.write_text(path.name)
        file_digest(path)
    first, _, last = paths
    file_digest(last)
    assert len(reads) == 3
    file_digest(first)
    assert len(reads) == 4
