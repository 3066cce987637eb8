"""The servers of our own: what they have acknowledged outlives kill -9, at the same address."""

import shutil
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import RedisError

from unet_factory_cli.disk_reserve import DiskReserve
from unet_factory_cli.embedded import CACHE_OPTIONS, JOBS_OPTIONS, EmbeddedServer

WRITES_BEFORE_KILL = 200


@pytest.mark.parametrize("depth", [0, 20], ids=["short path", "path too long for a socket"])
def test_what_was_acknowledged_survives_kill_9_at_the_same_address(tmp_path: Path, depth: int) -> None:
    folder = tmp_path.joinpath(*["folder"] * depth)
    server = EmbeddedServer.start(folder, JOBS_OPTIONS)
    acknowledged: list[int] = []
    enough = threading.Event()

    def write() -> None:
        with Redis.from_url(server.redis_url) as redis:
            try:
                for number in range(10**6):
                    redis.set(f"job:{number}", "accepted")
                    acknowledged.append(number)
                    if number == WRITES_BEFORE_KILL:
                        enough.set()
            except RedisError:
                return

    writer = threading.Thread(target=write)
    writer.start()
    assert enough.wait(30)
    server.process.kill()
    server.process.wait()
    writer.join()
    again = EmbeddedServer.start(folder, JOBS_OPTIONS)
    try:
        assert again.redis_url == server.redis_url
        with Redis.from_url(server.redis_url) as redis:
            assert [number for number in acknowledged if not redis.exists(f"job:{number}")] == []
    finally:
        again.stop()
    assert not again.socket.exists()


def test_the_job_server_never_evicts_nor_delays_and_the_cache_server_evicts(tmp_path: Path) -> None:
    policies = []
    for name, options in (("jobs", JOBS_OPTIONS), ("cache", CACHE_OPTIONS)):
        server = EmbeddedServer.start(tmp_path / name, options)
        with Redis.from_url(server.redis_url) as redis:
            policies.append(redis.config_get("maxmemory-policy", "appendonly", "appendfsync"))
        server.stop()
    jobs, cache = policies
    assert jobs == {"maxmemory-policy": "noeviction", "appendonly": "yes", "appendfsync": "always"}
    assert (cache["maxmemory-policy"], cache["appendonly"]) == ("allkeys-lru", "no")


def test_files_that_were_open_to_others_are_closed_at_the_next_start(tmp_path: Path) -> None:
    folder = tmp_path / "jobs"
    EmbeddedServer.start(folder, JOBS_OPTIONS).stop()
    contents = [folder, *folder.rglob("*")]
    assert any(path.suffix == ".aof" for path in contents)
    for path in contents:
        path.chmod(0o755)
    EmbeddedServer.start(folder, JOBS_OPTIONS).stop()
    assert [path for path in contents if path.exists() and path.stat().st_mode & 0o077] == []


def test_the_reserve_takes_room_while_there_is_plenty_and_gives_it_back_when_there_is_none(small_disk: Path) -> None:
    reserve = DiskReserve(small_disk)
    before = shutil.disk_usage(small_disk).free
    for _ in range(2):
        reserve.hold()
        reserve.release_if_full()
        assert before - shutil.disk_usage(small_disk).free >= reserve.size_bytes
    with (small_disk / "filler").open("wb", buffering=0) as filler, suppress(OSError):
        while filler.write(b"x" * 4096):
            pass
    reserve.release_if_full()
    assert shutil.disk_usage(small_disk).free >= reserve.size_bytes
    reserve.hold()
    assert shutil.disk_usage(small_disk).free >= reserve.size_bytes, "it waits until there is plenty"


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no-such-option"):
        EmbeddedServer.start(tmp_path, {"no-such-option": "yes"})
