"""Which queue has its turn: networks first, and no number of them keeps a scan waiting."""

from unet_factory.domain.jobs import SEGMENT_QUEUE, WEIGHTS_QUEUE
from unet_factory_worker.turns import NETWORKS_IN_A_ROW, NetworksThenAScan


def taken(networks: int, scans: int) -> list[str]:
    """The queues from which messages are taken, in turn, until both are empty."""
    turns, waiting, order = NetworksThenAScan(), {WEIGHTS_QUEUE: networks, SEGMENT_QUEUE: scans}, []
    while any(waiting.values()):
        turns.update([SEGMENT_QUEUE, WEIGHTS_QUEUE])
        queue = next(queue for queue in turns.consume(2) if waiting[queue])
        waiting[queue] -= 1
        turns.rotate(queue)
        order.append(queue)
    return order


def test_a_few_networks_then_a_scan() -> None:
    order = taken(networks=3 * NETWORKS_IN_A_ROW, scans=5)
    assert order == [*([WEIGHTS_QUEUE] * NETWORKS_IN_A_ROW), SEGMENT_QUEUE] * 3 + [SEGMENT_QUEUE] * 2


def test_what_waits_alone_never_waits_for_the_other() -> None:
    assert taken(networks=20, scans=0) == [WEIGHTS_QUEUE] * 20
    assert taken(networks=0, scans=3) == [SEGMENT_QUEUE] * 3
    assert taken(networks=1, scans=2) == [WEIGHTS_QUEUE, SEGMENT_QUEUE, SEGMENT_QUEUE]
