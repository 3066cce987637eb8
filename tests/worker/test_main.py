"""The worker's shell: what its parent imports, how it is found, what it logs, how it is seen."""

import json
import logging
import subprocess
import sys

from redis import Redis

from unet_factory.jobs.presence import WorkerPresence, announce, present, withdraw
from unet_factory.platform.logs import JsonFormatter

PARENT = """
import sys
from celery.app.utils import find_app
app = find_app("unet_factory_worker.celery_app")
assert {"unet_factory.segment", "unet_factory.generate", "unet_factory.help"} <= set(app.tasks)
assert [queue.name for queue in app.conf.task_queues] == ["weights", "segmentations", "windows"]
print(sorted({"torch", "monai", "prometheus_client"} & set(sys.modules)))
"""


def test_celery_finds_the_app_and_its_parent_process_knows_no_torch() -> None:
    """Nor the metrics: where they are kept is decided before they are first imported."""
    answer = subprocess.run([sys.executable, "-c", PARENT], capture_output=True, text=True, timeout=60, check=True)
    assert answer.stdout.strip() == "[]"


def test_a_line_of_the_log_is_one_json_object() -> None:
    record = logging.LogRecord("a.b", logging.WARNING, "", 1, 'job %s\n"odd"', ("x",), None)
    line = JsonFormatter().format(record)
    assert "\n" not in line
    told = json.loads(line)
    assert (told["level"], told["logger"], told["message"]) == ("warning", "a.b", 'job x\n"odd"')


def test_a_worker_is_seen_until_it_withdraws_or_falls_silent(redis: Redis) -> None:
    presence = WorkerPresence(device="cpu", models={"tiny": "digest"}, started=1.0, pid=2)
    announce(redis, "a", presence)
    announce(redis, "b", presence, ttl_s=10.0)
    assert present(redis) == [presence, presence]
    withdraw(redis, "a")
    assert present(redis) == [presence]
    redis.delete("worker:b")  # as its time to live does
    assert present(redis) == []
    assert redis.smembers("workers") == set()
    announce(redis, "b", presence)
    assert present(redis) == [presence]
