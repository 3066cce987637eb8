"""The simulation of a large installation agrees with queueing theory where that has an answer."""

import pytest

from benchmarks.scale.costs import Cost
from benchmarks.scale.report import FULL, WAIT_P99_S, fewest, mean
from benchmarks.scale.simulation import Installation, Outcome, Simulation

FREE = {"gateway_s": 0.0, "store_s": 0.0, "cache_s": 0.0, "upload_bytes": 0, "result_bytes": 0}
SHORT, LONG = (Cost(scan=str(s), share=share, worker_s=s, **FREE) for s, share in ((1.0, 0.8), (6.0, 0.2)))
MIXED = (SHORT, LONG)


def simulate(workers: int, jobs_per_s: float, seconds: float, seed: int = 0) -> Outcome:
    return Simulation(MIXED, Installation(workers), seconds, seconds / 4, jobs_per_s=jobs_per_s, seed=seed).run()


@pytest.mark.parametrize("load", [0.3, 0.6])
def test_one_worker_waits_as_long_as_pollaczek_and_khinchine_say(load: float) -> None:
    """Mean wait of M/G/1: arrival rate times mean square of the service, over twice the share of time that is left."""
    square = sum(kind.share * kind.worker_s**2 for kind in MIXED)
    rate = load / mean(MIXED).worker_s
    outcome = simulate(1, rate, 40_000.0)
    assert outcome.wait_mean_s == pytest.approx(rate * square / (2 * (1 - load)), rel=0.15)
    assert outcome.use["workers"] == pytest.approx(load, rel=0.05)


@pytest.mark.parametrize("workers", [1, 8])
def test_when_more_comes_than_can_be_done_all_workers_are_busy(workers: int) -> None:
    outcome = simulate(workers, 2 * workers / mean(MIXED).worker_s, 500.0)
    assert outcome.use["workers"] == pytest.approx(1.0, abs=0.01)
    assert outcome.jobs_per_s == pytest.approx(workers / mean(MIXED).worker_s, rel=0.1)
    assert outcome.busiest == "workers"


def test_the_part_that_takes_longest_is_the_one_that_holds_up_the_rest() -> None:
    slow = tuple(kind.model_copy(update={"gateway_s": 1.0}) for kind in MIXED)
    outcome = Simulation(slow, Installation(64), 1_000.0, 200.0, clients=20).run()
    assert outcome.busiest == "gateways"
    assert outcome.jobs_per_s == pytest.approx(1.0, rel=0.05)


def test_the_fewest_workers_keep_the_wait_short_and_are_not_all_busy() -> None:
    installed, outcome = fewest(MIXED, 1.0, 1.0)
    assert outcome.wait_p99_s <= WAIT_P99_S
    assert mean(MIXED).worker_s / installed.workers <= FULL < mean(MIXED).worker_s / (installed.workers - 1)


def test_the_same_seed_gives_the_same_figures() -> None:
    assert simulate(3, 1.0, 2_000.0) == simulate(3, 1.0, 2_000.0) != simulate(3, 1.0, 2_000.0, seed=1)
