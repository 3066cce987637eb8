"""Which queue a worker looks at first."""

from collections.abc import Iterable

from unet_factory.domain.jobs import WEIGHTS_QUEUE, WINDOWS_QUEUE

NETWORKS_IN_A_ROW = 8


class NetworksThenAScan:
    """Ordered networks first, as somebody waits at ``GET /unet`` for a fraction of a second's work; after a few of them
    a segmentation that waits has its turn, so that no number of orders keeps segmentations from being done. Helping
    with another worker's scan is for when nothing else waits.

    Has the methods of kombu's own cycles (``kombu.utils.scheduling``).
    """

    def __init__(self) -> None:
        self._queues: list[str] = []
        self._in_a_row = 0

    def update(self, queues: Iterable[str]) -> None:
        self._queues = list(queues)

    def consume(self, n: int) -> list[str]:
        """The queues in the order in which they are to be looked at."""
        networks_first = self._in_a_row < NETWORKS_IN_A_ROW

        def place(queue: str) -> tuple[bool, bool]:
            return queue == WINDOWS_QUEUE, (queue == WEIGHTS_QUEUE) is not networks_first

        return sorted(self._queues, key=place)[:n]

    def rotate(self, last_used: str) -> None:
        """A message was taken from a queue."""
        self._in_a_row = self._in_a_row + 1 if last_used == WEIGHTS_QUEUE else 0
