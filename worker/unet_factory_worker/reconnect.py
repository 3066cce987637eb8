"""A consumer that has nothing to do and yet may not fetch: Celery's blind spot after an outage of the broker."""

import logging
from typing import Any

from celery import bootsteps
from celery.worker import state

log = logging.getLogger(__name__)

CHECK_INTERVAL_S = 2.0


class ReconnectWhenStuck(bootsteps.StartStopStep):
    """A job that ends while Redis is away cannot be acknowledged; its message then fills the prefetch limit for ever.

    A new connection has nothing to acknowledge. The message comes again much later, when the job has long ended.
    """

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        self._timer: Any = None

    def start(self, parent: Any) -> None:
        self._timer = parent.timer.call_repeatedly(CHECK_INTERVAL_S, _check, (parent,))

    def stop(self, parent: Any) -> None:  # noqa: ARG002 (the signature is Celery's)
        if self._timer is not None:
            self._timer.cancel()


def _check(consumer: Any) -> None:
    """Runs in the event loop, so nothing is half done; a connection error raised here makes the consumer reconnect."""
    if not state.reserved_requests and not consumer.task_consumer.channel.qos.can_consume():
        log.warning("an acknowledgement was lost; connecting again")
        raise ConnectionResetError
