"""Messages that nobody acknowledges, for a transport that emulates it with six commands and two waits for the disk."""

from typing import Any

from celery import bootsteps


class NothingToAcknowledge(bootsteps.StartStopStep):
    """kombu's Redis transport keeps no message of a ``no_ack`` queue, yet wants to forget each one when it is done."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def start(self, parent: Any) -> None:
        parent.task_consumer.channel.basic_ack = _nothing


def _nothing(*_: object, **__: object) -> None: ...
