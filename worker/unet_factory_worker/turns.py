"""Which queue a worker looks at first."""

from kombu.utils.scheduling import round_robin_cycle

from unet_factory.domain.jobs import WEIGHTS_QUEUE

NETWORKS_IN_A_ROW = 8


class NetworksThenAScan(round_robin_cycle):
    """Ordered networks first, as somebody waits at ``GET /unet`` for a fraction of a second's work; after a few of them
    a segmentation that waits has its turn, so that no number of orders keeps segmentations from being done.
    """

    def __init__(self, queues: list[str] | None = None) -> None:
        super().__init__(queues)
        self._in_a_row = 0

    def consume(self, n: int) -> list[str]:
        networks_first = self._in_a_row < NETWORKS_IN_A_ROW
        return sorted(self.items, key=lambda queue: (queue == WEIGHTS_QUEUE) is not networks_first)[:n]

    def rotate(self, last_used: str) -> str:
        self._in_a_row = self._in_a_row + 1 if last_used == WEIGHTS_QUEUE else 0
        return last_used
