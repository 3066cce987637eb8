"""Figures of a run, from its history, and the page that shows them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tests.torture.checker import QUIET, STORED_SERIES, Violation, check
from tests.torture.history import Event

_LOST = {"lost job", "lost series", "lost delivery", "failed job", "two ends"}
_DIFFERING = {"differing delivery", "changed bytes", "repeated key"}


@dataclass(frozen=True)
class Figures:
    """Times in seconds. ``recoveries_s``: from a fault's end until the first job submitted after it has succeeded."""

    minutes: float
    faults: Counter[str]
    jobs: int
    series: int
    networks: int
    callbacks: int
    repeated_deliveries: int
    refusals: Counter[int]
    broken: int
    failed_for_space: int
    most_attempts: int
    restarts: int
    aged: int
    next_success_s: tuple[float, ...]
    recoveries_s: tuple[float, ...]
    violations: tuple[Violation, ...]

    @property
    def lost(self) -> int:
        return sum(violation.rule in _LOST for violation in self.violations)

    @property
    def differing(self) -> int:
        return sum(violation.rule in _DIFFERING for violation in self.violations)


def figures_of(events: list[Event]) -> Figures:
    done = Counter(event.f for event in events if event.type == "ok" and event.process != QUIET)
    ends = [event for event in events if event.type == "ok" and event.f == "follow"]
    faults = [event for event in events if event.f == "fault-begins"]
    received = [event.value["uid"] for event in events if event.f == "received"]
    called = [event.value["id"] for event in events if event.f == "called-back"]
    over = [event.time_s for event in events if event.f == "fault-ends"]
    final = [event.value for event in events if event.f == "final-state"]
    return Figures(
        minutes=(max(over, default=0.0) - min((event.time_s for event in faults), default=0.0)) / 60,
        faults=Counter(event.value["kind"] for event in faults),
        jobs=done["submit"],
        series=sum(done[f] for f in STORED_SERIES),
        networks=done["network"],
        callbacks=len(set(called)),
        repeated_deliveries=len(received) + len(called) - len(set(received)) - len(set(called)),
        refusals=Counter(event.value["status"] for event in events if event.f == "refused"),
        broken=sum(event.type == "info" and event.operation > 0 for event in events),
        failed_for_space=sum(event.value["state"] == "failed" for event in ends),
        most_attempts=max((event.value["attempts"] for event in ends), default=0),
        restarts=sum(event.f == "ended-by-itself" for event in events),
        aged=final[-1]["aged"] if final else 0,
        next_success_s=tuple(_until_success(over, ends, {})),
        recoveries_s=tuple(_until_success(over, ends, _submitted(events))),
        violations=tuple(check(events)),
    )


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest-rank one; NaN without values."""
    if not values:
        return float("nan")
    return sorted(values)[max(0, -(-len(values) * percent // 100).__int__() - 1)]


def page(figures: Figures, events: list[Event]) -> str:
    """The whole page, in Markdown."""
    run = next((event.value for event in events if event.f == "parameters"), {})
    options = " ".join(
        f"--{name.replace('_', '-')} {run[name]:g}" for name in ("minutes", "seed", "retention_s") if run
    )
    rows = [
        ("minutes of faults", f"{figures.minutes:.1f}"),
        ("faults", str(figures.faults.total())),
        ("jobs accepted by `POST /segmentations`", str(figures.jobs)),
        ("series stored by STOW-RS and C-STORE", str(figures.series)),
        ("networks fetched", str(figures.networks)),
        ("callbacks received", str(figures.callbacks)),
        ("**lost** (jobs, series, callbacks)", f"**{figures.lost}**"),
        ("**delivered or answered twice, and differing**", f"**{figures.differing}**"),
        ("other violations", str(len(figures.violations) - figures.lost - figures.differing)),
        ("delivered twice, the same (a sender was killed or cut off)", str(figures.repeated_deliveries)),
        ("jobs that failed because the disk was full", str(figures.failed_for_space)),
        ("most attempts at one job", str(figures.most_attempts)),
        ("requests whose outcome the client could not know", str(figures.broken)),
        ("processes that ended by themselves and were started again", str(figures.restarts)),
        ("files left to later sweeps: of killed processes, and of series about to expire", str(figures.aged)),
        ("recovery, p50 / p99", _pair(figures.recoveries_s)),
        ("next success of any job, p50 / p99", _pair(figures.next_success_s)),
    ]
    kinds = sorted(figures.faults.items())
    refusals = sorted(figures.refusals.items())
    return "\n".join(
        [
            *_HEAD.format(options=options, machine=run.get("machine", "a machine")).splitlines(),
            *_table(("what", "how many"), rows),
            "",
            "## Faults by kind",
            "",
            *_table(("fault", "times"), [(kind, str(times)) for kind, times in kinds]),
            "",
            "## Refusals by status",
            "",
            *_table(("status", "times"), [(str(status), str(times)) for status, times in refusals]),
            *([] if not figures.violations else ["", "## Violations", ""]),
            *(f"- {violation.rule}: {violation.what}" for violation in figures.violations),
            "",
        ]
    )


def _until_success(over: list[float], ends: list[Event], submitted: dict[str, float]) -> list[float]:
    """For each end of a fault, the time to the first success of a job that was submitted after it."""
    successes = [
        (event.time_s, submitted.get(event.value["job"], event.time_s))
        for event in ends
        if event.value["state"] == "succeeded"
    ]
    found = (min((end for end, began in successes if began >= time_s), default=None) for time_s in over)
    return [end - time_s for end, time_s in zip(found, over, strict=True) if end is not None]


def _submitted(events: list[Event]) -> dict[str, float]:
    """When the request that made a job was invoked."""
    invoked = {event.operation: event.time_s for event in events if event.type == "invoke" and event.f == "submit"}
    return {
        event.value["job"]: invoked[event.operation] for event in events if event.f == "submit" and event.type == "ok"
    }


def _pair(values: Sequence[float]) -> str:
    return f"{percentile(values, 50):.1f} / {percentile(values, 99):.1f} s"


def _table(head: tuple[str, str], rows: Sequence[tuple[str, str]]) -> list[str]:
    return [f"| {head[0]} | {head[1]} |", "|---|---|", *(f"| {left} | {right} |" for left, right in rows)]


_HEAD = """\
# Faults: a history that anyone can check

`make torture ARGS='{options}'`, on {machine}.

Two gateways, two workers, a courier, a listener and both stores run as separate processes, each behind a proxy of its
own, with their data on a small disk. Clients submit scans (with and without `Idempotency-Key`), send series by STOW-RS
and C-STORE, follow, fetch, delete, and leave jobs to expire; results go to an archive and to webhooks. Meanwhile a
seeded nemesis takes all of this apart. The history of every operation is `build/torture/history.jsonl`; the checker
(`tests/torture/checker.py`) reads nothing else. It demands that every accepted job ends once and succeeds unless the
disk was full, that every result equals that of a quiet run before the faults bit for bit, that what comes twice is the
same twice, that what was deleted or has expired is gone from disk and Redis, and that refusals are honest.

*Recovery* is the time from a fault's end until the first job that was submitted after it has succeeded, as its client
sees it; other faults may have begun meanwhile. The load is the machine's average over the last quarter of an hour:
where it is above the number of cores, other work ran on them, and times include the wait for a core (a worker that is
started then takes a minute to import PyTorch).

"""
