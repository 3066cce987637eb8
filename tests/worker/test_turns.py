"""Which queue has its turn: networks first, and no number of them keeps a scan waiting."""

from unet_factory.domain.jobs import SEGMENT_QUEUE, WEIGHTS_QUEUE, WINDOWS_QUEUE
from unet_factory_worker.turns import NETWORKS_IN_A_ROW, NetworksThenAScan


def taken(networks: int, scans: int, windows: int = 0) -> list[str]:
    """The queues from which messages are taken, in turn, until all are empty."""
    waiting = {WINDOWS_QUEUE: windows, WEIGHTS_QUEUE: networks, SEGMENT_QUEUE: scans}
    turns, order = NetworksThenAScan(), []
    while any(waiting.values()):
        turns.update(waiting)
        queue = next(queue for queue in turns.consume(3) if waiting[queue])
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


def test_another_workers_scan_is_helped_with_when_nothing_else_waits() -> None:
    order = taken(networks=NETWORKS_IN_A_ROW + 1, scans=1, windows=2)
    assert order == taken(networks=NETWORKS_IN_A_ROW + 1, scans=1) + [WINDOWS_QUEUE] * 2
