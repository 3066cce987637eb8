"""The courier's entry. Several may run; what is due is claimed by lease, so none does another's work."""

import logging
import signal
import threading
from contextlib import suppress
from types import FrameType

from unet_factory.destinations import Destinations, Pacs, SecretReference
from unet_factory.jobs.deliveries import DeliveryStore
from unet_factory.jobs.lifecycle import JobLifecycle
from unet_factory.jobs.queue import JobQueue
from unet_factory.jobs.store import JobStore
from unet_factory.platform.audit import open_trail
from unet_factory.platform.blob_store import BlobStore
from unet_factory.platform.logs import configure_logging
from unet_factory.platform.metrics import scrape_registry
from unet_factory.platform.redis_clients import connect
from unet_factory.platform.signs_of_life import give_signs_in_background
from unet_factory.platform.tracing import start_tracing
from unet_factory_courier.attempts import Attempts, Dispatcher
from unet_factory_courier.settings import CourierSettings
from unet_factory_courier.tasks import DeliveryTasks
from unet_factory_courier.webhook import secret_bytes

log = logging.getLogger(__name__)

# They log URLs and UIDs, some at INFO, some as errors.
_TALKATIVE = ("dicomweb_client", "httpcore", "httpx", "pydicom", "pynetdicom", "requests", "urllib3")


def run(settings: CourierSettings) -> None:
    """Work until SIGTERM or SIGINT; attempts that run then may end within ``stop_grace_s``.

    Raises:
        DestinationsInvalid: the file of destinations cannot be used, or a secret that it names is missing.
        OSError: the audit trail cannot be written.
    """
    configure_logging(settings.log_format)
    open_trail(settings.audit_log)
    quiet_libraries()
    destinations = Destinations.load(settings.destinations)
    check_secrets(destinations)
    redis = connect(settings.redis_url)
    deliveries = DeliveryStore(redis)
    blobs = BlobStore(settings.blob_url, min_free_bytes=settings.min_free_bytes)
    tasks = DeliveryTasks(settings, destinations, JobStore(redis), JobLifecycle(redis, blobs), blobs)
    attempts = Attempts(deliveries, tasks, JobQueue(settings.broker_url, settings.broker_options).send_segmentation)
    dispatcher = Dispatcher(deliveries, attempts.run, settings.lease_s, settings.deliveries_per_destination)
    start_tracing(settings.traces_url, "courier")
    stop = _stop_signals()
    if settings.metrics_port:
        from prometheus_client import start_http_server

        start_http_server(settings.metrics_port, settings.metrics_host, registry=scrape_registry())
    log.info("ready; archives: %s", ", ".join(sorted(destinations.pacs)) or "none")
    give_signs_in_background()
    dispatcher.run(stop)
    if not dispatcher.finish(settings.stop_grace_s):
        log.warning("some attempts did not end in time; they are tried again when their leases end")


def quiet_libraries() -> None:
    """Keep libraries from logging what belongs to patients or receivers."""
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)


def check_secrets(destinations: Destinations) -> None:
    """
    Raises:
        DestinationsInvalid: one is missing or malformed.
    """
    for webhook_secret in destinations.webhooks.secrets:
        secret_bytes(webhook_secret)
    for pacs in destinations.pacs.values():
        for secret in _secrets_of(pacs):
            secret.read()


def _secrets_of(pacs: Pacs) -> list[SecretReference]:
    auth = pacs.dicomweb.auth if pacs.dicomweb else None
    if auth is None:
        return []
    return [secret for secret in (auth.basic.password if auth.basic else None, auth.bearer) if secret]


def _stop_signals() -> threading.Event:
    stop = threading.Event()

    def handle(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        with suppress(ValueError):  # not in the main thread: whoever runs us there stops us otherwise
            signal.signal(number, handle)
    return stop
