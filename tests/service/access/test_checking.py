"""Checking cannot take the places of health and access, nor one caller's those of another."""

import asyncio
import threading

import pytest
from starlette.concurrency import run_in_threadpool

from unet_factory_service.access.checking import Checking

MANY = 60  # more than the server has threads for everything else


@pytest.mark.parametrize("owner", ["", "greedy"])
def test_many_checks_leave_the_servers_own_threads_free(owner: str) -> None:
    release = threading.Event()

    async def scene() -> None:
        checking = Checking(4)
        flood = [asyncio.create_task(checking.run(owner, release.wait, 30.0)) for _ in range(MANY)]
        await asyncio.sleep(0.2)
        async with asyncio.timeout(5):
            assert await run_in_threadpool(sum, (1, 2)) == 3
            if owner:
                assert await checking.run("another", sum, (1, 2)) == 3
        release.set()
        assert all(await asyncio.gather(*flood))

    asyncio.run(scene())


def test_no_more_checks_run_at_a_time_than_there_are_places() -> None:
    running, most, lock = 0, 0, threading.Lock()

    def check() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        threading.Event().wait(0.02)
        with lock:
            running -= 1

    async def scene() -> None:
        checking = Checking(4)
        await asyncio.gather(*(checking.run(f"key-{index % 5}", check) for index in range(MANY)))

    asyncio.run(scene())
    assert 1 < most <= 4
