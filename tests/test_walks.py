"""The walks of docs/walks.md are those that the code takes: each is made, and each function is called in that order."""

import base64
import json
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import nibabel
import numpy as np
import pytest
from lightning_fabric import Fabric
from redis import Redis

from tests.fixtures.dicom_files import as_bytes, mr_series
from tests.fixtures.project import PROJECT
from tests.fixtures.settings import FactorySettings
from tests.fixtures.training_data import config, dataset_root
from tests.service.conftest import Gateway, poll, running_gateway
from unet_factory.destinations import Destinations
from unet_factory.domain.jobs import SEGMENT_QUEUE, WEIGHTS_QUEUE, DeliveryState
from unet_factory.jobs.deliveries import DeliveryStore
from unet_factory.jobs.presence import WorkerPresence, announce
from unet_factory_courier.attempts import Attempts, Dispatcher
from unet_factory_courier.tasks import DeliveryTasks
from unet_factory_training.config import TrainingConfig
from unet_factory_training.loop import train
from unet_factory_worker import child
from unet_factory_worker.celery_app import generate, segment
from unet_factory_worker.child import WorkerContext, open_context

__all__ = ["config", "dataset_root"]

UPLOAD, SPACING, BATCH, STOW = (
    "From an upload to its label map",
    "From a spacing to the tensors of its network",
    "From a batch to its loss",
    "From instances sent by STOW-RS to a segmentation in the archive",
)
MOST_FILES = {UPLOAD: 25, SPACING: 9, BATCH: 12, STOW: 43}


class Call(NamedTuple):
    file: str
    function: str


class Trace:
    """The functions of the project that were called, in the order of their first calls."""

    def __init__(self) -> None:
        self.calls: dict[Call, None] = {}

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(str(PROJECT)):
            file = frame.f_code.co_filename.removeprefix(f"{PROJECT}/")
            self.calls.setdefault(Call(file, frame.f_code.co_qualname))


@pytest.fixture
def trace() -> Iterator[Trace]:
    """Of all threads that start from here on, and of this one."""
    trace, before = Trace(), sys.getprofile()
    threading.setprofile(trace)
    sys.setprofile(trace)
    yield trace
    sys.setprofile(before)
    threading.setprofile(before)


@pytest.fixture
def settings(settings: FactorySettings) -> FactorySettings:
    """Tracing is slow: no lease may end meanwhile."""
    return settings.model_copy(update={"lease_s": 60.0})


@pytest.fixture
def worker(settings: FactorySettings, redis: Redis, monkeypatch: pytest.MonkeyPatch) -> WorkerContext:
    """A worker's context in this process, announced as a worker."""
    context = open_context(settings)
    monkeypatch.setattr(child, "_context", context)
    announce(redis, "here", WorkerPresence(device="cpu", models=context.models.current(), started=0, pid=1), ttl_s=600)
    return context


def test_an_upload_takes_the_way_to_its_label_map(
    worker: WorkerContext, trace: Trace, settings: FactorySettings, redis: Redis, tmp_path: Path
) -> None:
    scan = tmp_path / "scan.nii.gz"
    voxels = np.random.default_rng(0).normal(size=(16, 16, 16)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), scan)
    with running_gateway(settings) as gateway:
        trace.calls.clear()
        answer = gateway.http.post("/segmentations", files={"file": scan.read_bytes()}).raise_for_status()
        segment(taken(redis, SEGMENT_QUEUE))
        labels = gateway.http.get(f"/segmentations/{answer.json()['id']}/labelmap").raise_for_status()
    assert labels.content
    assert_walked(UPLOAD, trace)


def test_a_spacing_takes_the_way_to_its_network(
    worker: WorkerContext, trace: Trace, settings: FactorySettings, redis: Redis
) -> None:
    with running_gateway(settings) as gateway:
        trace.calls.clear()
        asking = threading.Thread(target=gateway.http.get, args=("/unet?spacing=1,0.5,0.5",))
        asking.start()
        generate(taken(redis, WEIGHTS_QUEUE))
        asking.join()
        assert gateway.http.get("/unet?spacing=1,0.5,0.5").raise_for_status().content
    assert_walked(SPACING, trace)


def test_a_batch_takes_the_way_to_its_loss(trace: Trace, config: TrainingConfig, tmp_path: Path) -> None:
    short = config.model_copy(update={"optimisation": config.optimisation.model_copy(update={"iterations": 2})})
    train(short, tmp_path, Fabric(accelerator="cpu"))
    assert_walked(BATCH, trace)


def test_a_series_takes_the_way_to_a_delivered_segmentation(
    worker: WorkerContext, trace: Trace, settings: FactorySettings, redis: Redis, tmp_path: Path
) -> None:
    routing, destinations = tmp_path / "routing.yml", tmp_path / "destinations.yml"
    routing.write_text("rules: [{match: {modality: MR}, model: tiny, send_to: [main], seg_type: labelmap}]\n")
    destinations.write_text("pacs: {main: {dicomweb: {url: http://127.0.0.1:1}}}\n")
    settings = settings.model_copy(
        update={"routing": routing, "destinations": destinations, "series_quiet_s": 0.2, "maintenance_interval_s": 0.1}
    )
    with running_gateway(settings) as gateway:
        trace.calls.clear()
        body = b"".join(b"--b\r\nContent-Type: application/dicom\r\n\r\n%s\r\n" % as_bytes(one) for one in mr_series())
        content_type = 'multipart/related; type="application/dicom"; boundary=b'
        gateway.http.post(
            "/dicomweb/studies", content=body + b"--b--\r\n", headers={"Content-Type": content_type}
        ).raise_for_status()
        job_id = taken(redis, SEGMENT_QUEUE)
        segment(job_id)
        deliver(gateway, worker, redis, settings, destinations)
    (delivery,) = worker.jobs.get(job_id).deliveries
    assert delivery.state is DeliveryState.DELIVERED
    assert_walked(STOW, trace, after=UPLOAD)


def taken(redis: Redis, queue: str) -> str:
    """The argument of the next task in a queue, as a worker takes it."""
    message: list[Any] = []

    def came() -> bool:
        message[:] = filter(None, [redis.rpop(queue)])
        return bool(message)

    poll(came)
    arguments, *_ = json.loads(base64.b64decode(json.loads(message[0])["body"]))
    return str(arguments[0])


def deliver(
    gateway: Gateway, worker: WorkerContext, redis: Redis, settings: FactorySettings, destinations: Path
) -> None:
    """Let a courier in this process deliver what is due, to the gateway: it takes instances as an archive does."""
    destinations.write_text(f"pacs: {{main: {{dicomweb: {{url: '{gateway.url}/dicomweb'}}}}}}\n")
    deliveries = DeliveryStore(redis)
    tasks = DeliveryTasks(settings, Destinations.load(destinations), worker.jobs, worker.lifecycle, worker.blobs)
    sent: list[str] = []
    dispatcher = Dispatcher(deliveries, Attempts(deliveries, tasks, sent.append).run, settings.lease_s, 1)
    dispatcher.run_once()
    assert dispatcher.finish(10)


def assert_walked(title: str, trace: Trace, after: str | None = None) -> None:
    """Every function of the walk was called, in its order; it is no longer than it may be.

    Args:
        after: the walk whose files are left out of this one, but crossed, too.
    """
    walk, called = walk_of(title), list(trace.calls)
    assert walk
    assert [call for call in walk if call in trace.calls] == walk
    assert sorted(walk, key=called.index) == walk
    shared = {call.file for call in walk_of(after)} & {call.file for call in called} if after else set()
    assert len(shared | {call.file for call in walk}) <= MOST_FILES[title]


def walk_of(title: str) -> list[Call]:
    section = (PROJECT / "docs" / "walks.md").read_text().partition(f"## {title}\n")[2].partition("\n## ")[0]
    return [Call(*found) for found in re.findall(r"^\| `([^`]+)` \| `([^`]+)` \|", section, re.MULTILINE)]
