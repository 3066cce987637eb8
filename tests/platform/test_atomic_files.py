"""A file appears whole or not at all, whatever stops its writer, and there is one place that sees to it."""

import errno
import os
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.fixtures.project import PROJECT
from unet_factory.domain.errors import StorageFull
from unet_factory.platform.atomic_files import FULL_DISK_ERRNOS, storage_errors, whole_file

PRODUCT = ("unet_factory", "service", "worker", "courier", "listener", "client", "cli", "training", "research")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "result.bin"
    path.write_bytes(b"earlier")
    return path


def test_a_block_that_succeeds_replaces_the_file(path: Path) -> None:
    with whole_file(path) as partial:
        partial.write_bytes(b"new")
        assert path.read_bytes() == b"earlier"
    assert path.read_bytes() == b"new"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("durable", [True, False])
def test_only_a_durable_file_waits_for_the_disk(path: Path, monkeypatch: pytest.MonkeyPatch, durable: bool) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    with whole_file(path, durable=durable) as partial:
        partial.write_bytes(b"new")
    assert path.read_bytes() == b"new"
    assert bool(synced) is durable


def test_a_block_that_fails_leaves_what_was_there(path: Path) -> None:
    def fail() -> None:
        with whole_file(path) as partial:
            partial.write_bytes(b"half of it")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert path.read_bytes() == b"earlier"
    assert list(path.parent.iterdir()) == [path]


def test_a_killed_writer_leaves_what_was_there(path: Path) -> None:
    killed = (
        "import os, signal, sys; from pathlib import Path; from unet_factory.platform.atomic_files import whole_file\n"
        "with whole_file(Path(sys.argv[1]), Path(sys.argv[2])) as partial:\n"
        "    partial.write_bytes(b'half of it'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    partial = path.with_suffix(".partial")
    done = subprocess.run([sys.executable, "-c", killed, str(path), str(partial)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert (path.read_bytes(), partial.read_bytes()) == (b"earlier", b"half of it")
    with whole_file(path, partial):  # the next writer takes its place
        partial.write_bytes(b"new")
    assert path.read_bytes() == b"new"
    assert list(path.parent.iterdir()) == [path]


def test_of_several_writers_one_wins_whole(path: Path) -> None:
    contents = [bytes([value]) * 200_000 for value in range(8)]

    def write(content: bytes) -> None:
        with whole_file(path) as partial, partial.open("wb") as file:
            for at in range(0, len(content), 1000):
                file.write(content[at : at + 1000])

    with ThreadPoolExecutor(len(contents)) as pool:
        list(pool.map(write, contents))
    assert path.read_bytes() in contents
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_no_room_is_one_error_whatever_the_system_calls_it(number: int) -> None:
    with (
        pytest.raises(StorageFull, match=f"no room for the scan: {os.strerror(number)}"),
        storage_errors("no room for the scan"),
    ):
        raise OSError(number, os.strerror(number))


def test_other_trouble_with_the_disk_stays_what_it_is() -> None:
    assert errno.EACCES not in FULL_DISK_ERRNOS
    with pytest.raises(PermissionError), storage_errors("no room for the scan"):
        raise PermissionError(errno.EACCES, "denied")


def test_nobody_else_syncs_files_or_tells_a_full_disk() -> None:
    sources = [source for folder in PRODUCT for source in (PROJECT / folder).rglob("*.py")]
    assert len(sources) > 150
    own = re.compile(r"\bfsync\b|\bEDQUOT\b|\.errno\b.*\bENOSPC\b")
    found = [str(source.relative_to(PROJECT)) for source in sources if own.search(source.read_text())]
    assert found == ["unet_factory/platform/atomic_files.py"]
