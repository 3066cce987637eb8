"""The worker's entry: a Celery app, prefork with one child per worker. The parent coordinates, the child computes.

The parent never imports torch. ``run(settings)`` is what the command calls;
``celery -A unet_factory_worker.celery_app`` finds ``app``, built from the environment on first use.
"""

import logging
import os
import signal
import tempfile
import threading
import warnings
from contextlib import ExitStack
from functools import lru_cache, partial
from typing import Any

from billiard.util import get_logger as pool_logger
from celery import Celery, current_task, signals
from celery.exceptions import CPendingDeprecationWarning
from celery.worker.consumer import Consumer
from kombu import Queue

from unet_factory.domain.jobs import (
    GENERATE_TASK,
    HELP_TASK,
    ORIGIN_HEADER,
    QUEUES,
    SEGMENT_QUEUE,
    SEGMENT_TASK,
    GenerationRequest,
    Origin,
)
from unet_factory.platform.blob_store import BlobStore
from unet_factory.platform.following import following
from unet_factory.platform.logs import configure_logging
from unet_factory.platform.redis_clients import connect
from unet_factory.platform.signs_of_life import give_signs_in_background
from unet_factory.platform.tracing import start_tracing, stop_tracing
from unet_factory_worker.idle_exit import leave_when_idle
from unet_factory_worker.messages import NothingToAcknowledge
from unet_factory_worker.mutual_watch import MutualWatch, Pulse
from unet_factory_worker.settings import WorkerSettings

log = logging.getLogger(__name__)

CHILD_FAILED_SIGNAL = signal.SIGUSR2
EXIT_FAILURE = 1

_PROC_ALIVE_TIMEOUT_S = 600.0  # a child is up when its models are loaded; Celery's own default is 4 s


def run(settings: WorkerSettings) -> int:
    """Work until told to stop; returns the exit status.

    SIGTERM or SIGINT: finish the current job first, at most ``stop_grace_s``; a second one: leave at once.
    """
    configure_logging(settings.log_format)
    with ExitStack() as stack:
        if settings.metrics_port and "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            # read by prometheus_client when it is first imported, so before anything that counts
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = stack.enter_context(tempfile.TemporaryDirectory())
        worker = build_app(settings).Worker(
            quiet=True, without_gossip=True, without_mingle=True, without_heartbeat=True, loglevel=logging.INFO
        )
        worker.start()
        return int(worker.exitcode or 0)


def build_app(settings: WorkerSettings) -> Celery:
    """The Celery app of one worker; nothing is connected or loaded yet."""
    app = Celery("unet_factory_worker", broker=settings.broker_url, set_as_current=False)
    app.conf.update(_CONFIGURATION)
    app.conf.broker_transport_options = app.conf.broker_transport_options | settings.broker_options
    app.steps["consumer"].add(NothingToAcknowledge)
    app.task(name=SEGMENT_TASK)(segment)
    app.task(name=GENERATE_TASK)(generate)
    app.task(name=HELP_TASK)(help_with_windows)
    stopping = threading.Event()
    parent, child = Pulse(), Pulse()
    for moment, receiver in (
        (signals.setup_logging, partial(_keep_logging, settings)),
        (signals.celeryd_after_setup, _keep_warnings),
        (signals.celeryd_init, partial(_parent_starting, settings, parent, child)),
        (signals.worker_ready, partial(_parent_ready, settings, stopping)),
        (signals.worker_shutting_down, partial(_parent_stopping, settings, stopping)),
        (signals.worker_process_init, partial(_child_starting, settings, parent, child)),
        (signals.worker_process_shutdown, _child_stopping),
    ):
        moment.connect(receiver, weak=False)
    return app


def segment(job_id: str) -> None:
    from unet_factory_worker.child import context
    from unet_factory_worker.segmentation_task import run_job

    with context().computing.job():
        run_job(job_id, context())


def generate(request_json: str) -> None:
    from unet_factory_worker.child import context

    request = GenerationRequest.model_validate_json(request_json)
    message: Any = current_task.request if current_task else {}
    origin = Origin.model_validate_json(message.get(ORIGIN_HEADER) or "{}")
    with following(origin, "generate", model=request.model), context().computing.job():
        context().factory.publish(request)


def help_with_windows(job_id: str) -> None:
    from unet_factory_worker.child import context
    from unet_factory_worker.window_sharing import help_with

    with context().computing.job():
        help_with(job_id, context())


_CONFIGURATION: dict[str, Any] = {
    # A message only says that there is work, and is gone when it is taken: what is lost with a worker comes back by the
    # job's lease and the reaper, and they alone count attempts. None is taken while the child works.
    "task_queues": tuple(Queue(name, no_ack=True) for name in QUEUES),
    "broker_transport_options": {"queue_order_strategy": "unet_factory_worker.turns:NetworksThenAScan"},
    "task_default_queue": SEGMENT_QUEUE,
    "worker_pool": "prefork",
    "worker_concurrency": 1,
    "worker_prefetch_multiplier": 1,
    "worker_disable_prefetch": True,
    "worker_lost_wait": 0.5,
    "worker_proc_alive_timeout": _PROC_ALIVE_TIMEOUT_S,
    "task_ignore_result": True,
    "task_serializer": "json",
    "accept_content": ["json"],
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": None,
    # A full job store refuses Celery's own notes too. The worker connects again until there is room; a message that is
    # lost meanwhile is sent again by maintenance.
    "broker_channel_error_retry": True,
    "worker_cancel_long_running_tasks_on_connection_loss": False,
    "worker_enable_remote_control": False,
    "worker_send_task_events": False,
    "worker_hijack_root_logger": False,
    "worker_redirect_stdouts": False,
}


def _keep_logging(settings: WorkerSettings, **_: Any) -> None:
    """Being connected, this keeps Celery from setting up logging of its own. Maintenance tells of outages here, too."""
    configure_logging(settings.log_format)
    pool_logger().propagate = True
    pool_logger().setLevel(logging.WARNING)
    logging.getLogger(Consumer.__module__).addFilter(lambda record: "Cannot connect to" not in str(record.msg))


def _keep_warnings(**_: Any) -> None:
    """Celery has taken Python's warnings over, with their texts; and it has one for a setting that is meant, above."""
    logging.captureWarnings(False)
    warnings.filterwarnings("ignore", category=CPendingDeprecationWarning)


def _parent_starting(settings: WorkerSettings, parent: Pulse, child: Pulse, **_: Any) -> None:
    """A child that cannot start ends the whole worker; one that hangs is replaced."""
    signal.signal(CHILD_FAILED_SIGNAL, lambda *_: os._exit(EXIT_FAILURE))
    MutualWatch(parent, child, "child", settings.silence_s).start()
    give_signs_in_background()


def _parent_ready(settings: WorkerSettings, stopping: threading.Event, **_: Any) -> None:
    """Start what runs beside the consumer."""
    from prometheus_client import start_http_server

    from unet_factory.jobs.maintenance import Maintenance, run_maintenance
    from unet_factory.jobs.queue import JobQueue
    from unet_factory.platform.metrics import scrape_registry

    queue = JobQueue(settings.broker_url, settings.broker_options)
    maintenance = Maintenance(
        connect(settings.redis_url), BlobStore(settings.blob_url), queue.send_segmentation, settings
    )
    threading.Thread(
        target=run_maintenance, args=(maintenance, settings.maintenance_interval_s, stopping), daemon=True
    ).start()
    if settings.metrics_port:
        start_http_server(settings.metrics_port, settings.metrics_host, registry=scrape_registry())
    if settings.idle_exit_s:
        leave_when_idle(settings.idle_exit_s)


def _parent_stopping(settings: WorkerSettings, stopping: threading.Event, **_: Any) -> None:
    """In the signal handler: limit the wait for the current job; at a second signal, leave it to its lease and exit."""
    if stopping.is_set():
        os._exit(EXIT_FAILURE)
    stopping.set()
    patience = threading.Timer(settings.stop_grace_s, os._exit, [EXIT_FAILURE])
    patience.daemon = True
    patience.start()


def _child_starting(settings: WorkerSettings, parent: Pulse, child: Pulse, **_: Any) -> None:
    """Load everything; without its models the child is of no use, and the worker says so by its exit status."""
    watch = MutualWatch(child, parent, "parent", settings.silence_s)
    watch.start()
    # OpenMP reads it when torch loads it. Else threads that wait for each other spin, and where other processes want
    # the cores too, they spin while the one that they wait for is not running: ten times the CPU time of a small job.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from unet_factory_worker.child import start

    try:
        start_tracing(settings.traces_url, "worker")
        start(settings, watch)
    except Exception as error:  # no scan is near: its message is safe to tell
        log.exception("the worker cannot start: %s", error)
        os.kill(os.getppid(), CHILD_FAILED_SIGNAL)
        os._exit(EXIT_FAILURE)


def _child_stopping(**_: Any) -> None:
    from unet_factory_worker import child

    child.stop()
    stop_tracing()


@lru_cache(maxsize=1)
def _app_from_environment() -> Celery:
    return build_app(WorkerSettings())


def __getattr__(name: str) -> Any:
    if name == "app":
        return _app_from_environment()
    raise AttributeError(name)
