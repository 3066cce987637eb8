"""An outage is told when it begins, ever more seldom while it lasts, and when it is over."""

import logging

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from tests.system.processes import free_port
from unet_factory.platform.outages import Outages
from unet_factory.platform.redis_clients import connect


def test_ten_minutes_of_failures_leave_five_lines(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("unet_factory.platform.outages.time.monotonic", lambda: now)
    outages = Outages()
    caplog.set_level(logging.INFO)
    for _ in range(600):
        outages.failed("Redis at stores:6379", OSError("refused"))
        now += 1
    outages.answered("Redis at stores:6379")
    outages.answered("Redis at stores:6379")
    assert [record.getMessage() for record in caplog.records] == [
        "Redis at stores:6379 is not available and is waited for: OSError: refused",
        "Redis at stores:6379 has not been available for 60 s (61 attempts)",
        "Redis at stores:6379 has not been available for 180 s (181 attempts)",
        "Redis at stores:6379 has not been available for 420 s (421 attempts)",
        "Redis at stores:6379 is available again after 600 s",
    ]


def test_a_client_names_its_server_and_keeps_its_password(caplog: pytest.LogCaptureFixture) -> None:
    port = free_port()
    with connect(f"redis://user:secret@127.0.0.1:{port}/3") as client:
        for _ in range(3):
            with pytest.raises(RedisConnectionError):
                client.ping()
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith(f"Redis at 127.0.0.1:{port} is not available and is waited for: ConnectionError")
    assert "secret" not in line
