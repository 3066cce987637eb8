"""``GET /status``: who works and what waits."""

from pathlib import Path

import httpx
import pytest
from redis import Redis

from tests.service.keyed import small_scan
from unet_factory.jobs.presence import WorkerPresence, announce


@pytest.mark.usefixtures("worker_present")
def test_workers_and_queues_are_counted(http: httpx.Client, redis: Redis, tmp_path: Path) -> None:
    idle = http.get("/status").json()
    assert [(worker["device"], worker["models"]) for worker in idle["workers"]] == [("cpu", ["tiny"])]
    assert (idle["active_jobs"], idle["queued_jobs"], idle["queued_networks"]) == (0, 0, 0)
    with small_scan(tmp_path).open("rb") as file:
        assert http.post("/segmentations", files={"file": ("scan", file)}).status_code == 202
    announce(redis, "another", WorkerPresence(device="cuda:0", models={}, started=5.0, pid=2), ttl_s=60)
    busy = http.get("/status").json()
    assert (busy["active_jobs"], busy["queued_jobs"]) == (1, 1)
    assert {worker["device"] for worker in busy["workers"]} == {"cpu", "cuda:0"}
    assert busy["cache_used_bytes"] > 0
