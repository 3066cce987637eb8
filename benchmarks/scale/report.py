"""The tables of ``docs/scale.md``."""

import math
from collections.abc import Callable, Iterator, Sequence

from benchmarks.scale.costs import Cost, Costs
from benchmarks.scale.shared import SharedRuns
from benchmarks.scale.simulation import Installation, Outcome, Simulation

WORKERS = (1, 2, 4, 8, 16, 32, 64)
JOBS_A_DAY = (1_000, 10_000, 100_000, 1_000_000)
SPEEDUPS = (1, 10)
BUSIEST_HOUR = 0.1  # share of a day's jobs
WAIT_P99_S = 30.0
FULL = 0.8  # busier than this, a part has nothing left for a bad quarter of an hour
_WARM_UP_S, _SECONDS = 300.0, 900.0
_CLIENTS_PER_WORKER = 4
_MOST_JOBS = 12_000  # of one run


def costs_table(costs: Costs) -> Iterator[str]:
    yield "| scan | share | gateway | worker | job store | cache | upload | label map |"
    yield "|---|---|---|---|---|---|---|---|"
    for kind in (*costs.kinds, mean(costs.kinds)):
        seconds = (kind.gateway_s, kind.worker_s, kind.store_s, kind.cache_s)
        sizes = (kind.upload_bytes, kind.result_bytes)
        yield _row(
            kind.scan,
            f"{kind.share:.0%}",
            *(f"{second * 1000:.1f} ms" for second in seconds),
            *(f"{size / 1e6:.2f} MB" for size in sizes),
        )


def capacity_table(kinds: Sequence[Cost]) -> Iterator[str]:
    """What one of each part carries when it does nothing else."""
    cost, blobs = mean(kinds), Installation(1).blob_bytes_per_s
    carries = {
        "a worker of one core": 1 / cost.worker_s,
        "a gateway": 1 / cost.gateway_s,
        "the job store": 1 / cost.store_s,
        f"uploads and results at {blobs / 1e6:g} MB/s": blobs / (2 * (cost.upload_bytes + cost.result_bytes)),
    }
    yield "| part | jobs a second | jobs a day, spread evenly | workers of one core that it can feed |"
    yield "|---|---|---|---|"
    for part, rate in carries.items():
        yield _row(part, f"{rate:.3g}", f"{rate * 86400:,.0f}", f"{rate * cost.worker_s:.0f}")


def efficiency_table(kinds: Sequence[Cost]) -> Iterator[str]:
    """Jobs a second when there is always more to do, against the same number of lone workers."""
    yield "| workers | one gateway: jobs/s | efficiency | busiest part | four: jobs/s | efficiency | busiest part |"
    yield "|---|---|---|---|---|---|---|"
    alone = 1 / mean(kinds).worker_s
    for workers in WORKERS:
        cells: list[str] = []
        for gateways in (1, 4):
            seconds = 3000 / (workers * alone)
            clients = _CLIENTS_PER_WORKER * workers
            outcome = Simulation(kinds, Installation(workers, gateways), seconds, seconds / 3, clients=clients).run()
            share = outcome.jobs_per_s / (workers * alone)
            cells += [f"{outcome.jobs_per_s:.2f}", f"{share:.0%}", _busiest(outcome)]
        yield _row(str(workers), *cells)


def sizing_table(kinds: Sequence[Cost]) -> Iterator[str]:
    """The fewest workers and gateways for the busiest hour of a day."""
    yield "| jobs a day | busiest hour | a worker is | workers | gateways | wait p50 | p99 | total p99 | next busy |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for jobs in JOBS_A_DAY:
        rate = jobs * BUSIEST_HOUR / 3600
        for speedup in SPEEDUPS:
            installed, outcome = fewest(kinds, rate, speedup)
            beside = {part: use for part, use in outcome.use.items() if part != "workers"}
            part = max(beside, key=beside.__getitem__)
            yield _row(
                f"{jobs:,}",
                f"{rate:.3g}/s",
                f"{speedup}x one core",
                str(installed.workers),
                str(installed.gateways),
                *(f"{value:.1f} s" for value in (outcome.wait_p50_s, outcome.wait_p99_s, outcome.total_p99_s)),
                f"{part}, {beside[part]:.0%}",
            )


def shared_table(shared: SharedRuns) -> Iterator[str]:
    """What several workers on one scan take, and what sharing adds to the work."""
    machine, (alone, *_) = shared.machine, shared.runs
    yield f"{shared.scan}, on {machine.cores} cores of {machine.cpu} (load {machine.load}), commit {machine.commit}."
    yield ""
    yield "| workers | inference, by the clock | CPU time of all | efficiency | label map |"
    yield "|---|---|---|---|---|"
    for run in shared.runs:
        yield _row(
            str(run.workers),
            f"{run.infer_s:.1f} s",
            f"{run.worker_s:.1f} s",
            f"{min(1.0, alone.worker_s / run.worker_s):.0%}",
            "the same" if run.digest == alone.digest else "**another**",
        )


def fewest(kinds: Sequence[Cost], jobs_per_s: float, speedup: float) -> tuple[Installation, Outcome]:
    """The smallest with no part busier than ``FULL``, and a wait under ``WAIT_P99_S`` for 99 of 100 jobs."""
    cost = mean(kinds)
    gateways = max(1, math.ceil(jobs_per_s * cost.gateway_s / FULL))
    low = max(1, math.ceil(jobs_per_s * cost.worker_s / speedup / FULL))

    def tried(workers: int) -> tuple[Installation, Outcome]:
        installed = Installation(workers, gateways, speedup=speedup)
        return installed, _run(kinds, installed, jobs_per_s)

    return _first(low, tried, lambda outcome: outcome.wait_p99_s <= WAIT_P99_S)


def _first(
    low: int, tried: Callable[[int], tuple[Installation, Outcome]], good: Callable[[Outcome], bool]
) -> tuple[Installation, Outcome]:
    """More workers never wait longer, so the first number that is good can be searched for."""
    high = low
    while not good((best := tried(high))[1]):
        low, high = high + 1, 2 * high
    while low < high:
        middle = (low + high) // 2
        found = tried(middle)
        if good(found[1]):
            best, high = found, middle
        else:
            low = middle + 1
    return best


def _run(kinds: Sequence[Cost], installed: Installation, jobs_per_s: float) -> Outcome:
    """Long enough for some thousand jobs, where few come; not longer than ``_MOST_JOBS``, where many do."""
    seconds = min(max(_SECONDS, 3000 / jobs_per_s), _MOST_JOBS / jobs_per_s)
    warm_up_s = seconds * _WARM_UP_S / _SECONDS
    return Simulation(kinds, installed, seconds, warm_up_s, jobs_per_s=jobs_per_s).run()


def mean(kinds: Sequence[Cost]) -> Cost:
    """Of one job of the mixture."""
    shares = [kind.share / sum(kind.share for kind in kinds) for kind in kinds]

    def average(name: str) -> float:
        return sum(share * float(getattr(kind, name)) for share, kind in zip(shares, kinds, strict=True))

    seconds = {name: average(name) for name in ("gateway_s", "worker_s", "store_s", "cache_s")}
    sizes = {name: round(average(name)) for name in ("upload_bytes", "result_bytes")}
    return Cost(scan="mean", share=sum(kind.share for kind in kinds), **seconds, **sizes)


def _busiest(outcome: Outcome) -> str:
    return f"{outcome.busiest}, {outcome.use[outcome.busiest]:.0%}"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
