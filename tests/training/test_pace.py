"""The pace of a run, on a clock of the test's own."""

from collections.abc import Iterator

import pytest

from unet_factory_training.pace import Pace


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def run_for(pace: Pace, clock: Clock, iterations: int, waiting_s: float, working_s: float) -> None:
    def batches() -> Iterator[int]:
        for number in range(iterations):
            clock.now += waiting_s
            yield number

    for _ in pace.timed(batches()):
        clock.now += working_s


def test_the_rate_is_that_of_the_iterations_since_the_last_report() -> None:
    clock = Clock()
    pace = Pace(done=10, share=0.1, clock=clock)
    run_for(pace, clock, 20, waiting_s=0.1, working_s=0.4)
    first = pace.report(30, share=0.3)
    assert first.iterations_per_s == pytest.approx(2)
    assert first.waiting == pytest.approx(0.2)
    assert first.left_s == pytest.approx(0.7 * 10 / 0.2)
    run_for(pace, clock, 20, waiting_s=0.0, working_s=0.25)
    second = pace.report(50, share=0.5)
    assert second.iterations_per_s == pytest.approx(4)
    assert second.waiting == 0
    assert second.left_s == pytest.approx(0.5 * (20 * 0.5 + 20 * 0.25) / 0.4)
    assert str(second) == "4.00 iterations/s, 0% waiting for batches, 0:00:19 left"


def test_validation_counts_for_the_time_left_only() -> None:
    clock = Clock()
    pace = Pace(done=0, share=0.0, clock=clock)
    run_for(pace, clock, 10, waiting_s=0.5, working_s=0.5)
    clock.now += 30
    pace.paused(30)
    rate = pace.report(10, share=0.5)
    assert rate.iterations_per_s == pytest.approx(1)
    assert rate.waiting == pytest.approx(0.5)
    assert rate.left_s == pytest.approx(40)
