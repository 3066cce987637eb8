"""The checker finds each broken promise in a history, and none in a good one."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.torture.checker import FINAL_STATE, QUIET, Violation, check
from tests.torture.figures import figures_of, page, percentile
from tests.torture.history import Event, EventType

History = list[dict[str, Any]]

JOB, SERIES_JOB, OTHER_JOB = "a" * 32, "b" * 32, "c" * 32
PIXELS, MAP, NETWORK = "pixels", "map", "network"


def event(process: str, f: str, kind: EventType = "ok", /, **value: Any) -> dict[str, Any]:
    return {"process": process, "f": f, "type": kind, "value": value}


def end(job: str, **changes: Any) -> dict[str, Any]:
    told = {"state": "succeeded", "finished": 10.0, "attempts": 1, "error": "", "expires_s": 100.0}
    return {"job": job, **told, "deliveries": [["webhook", "delivered", 1]], **changes}


def received(study: str, modality: str, uid: str, **changes: Any) -> dict[str, Any]:
    seg = {"pixels": PIXELS, "slices": 8} if modality == "SEG" else {}
    return event(
        "archive", "received", **{"study": study, "modality": modality, "uid": uid, "sha256": uid, **seg, **changes}
    )


def results(study: str) -> History:
    return [received(study, modality, f"{study}.{modality}") for modality in ("SEG", "SR")]


def good() -> History:
    """A job by HTTP with a callback, deleted, and a series by STOW, beside the quiet run; one of each fault's kind."""
    return [
        event(QUIET, "fetch", job="quiet", scan="small", sha256=MAP),
        event(QUIET, "fetch-seg", job="quiet", scan="zip", uid="1", sha256="1", pixels=PIXELS, slices=8),
        event(QUIET, "network", spacing="1,1,1", sha256=NETWORK),
        event(QUIET, "stow", "invoke", study="quiet", kind=0),
        event(QUIET, "stow", study="quiet", kind=0),
        *results("quiet"),
        event("nemesis", "fault-begins", "info", kind="kill worker"),
        event("client-1", "submit", "invoke", scan="small", key="k"),
        event("client-1", "submit", job=JOB, scan="small", key="k", called_back=True),
        event("client-2", "stow", "invoke", study="s", kind=0),
        event("client-2", "stow", study="s", kind=0),
        event("nemesis", "fault-ends", "info", kind="kill worker"),
        event("client-1", "refused", "info", asked="job", status=503, retry_after="2", problem="not-ready"),
        event("webhook", "called-back", id=f"{JOB}-0", job=JOB, state="succeeded", sha256="body"),
        event("client-1", "follow", **end(JOB)),
        event("client-1", "fetch", job=JOB, scan="small", sha256=MAP),
        event("client-1", "look-again", **end(JOB)),
        event("client-1", "delete", "invoke", job=JOB),
        event("client-1", "delete", job=JOB),
        event("client-1", "refused", "info", asked="deleted labelmap", status=410, retry_after=None, problem="expired"),
        event("client-1", "fetch-deleted", job=JOB, status=410),
        event("client-3", "network", spacing="1,1,1", sha256=NETWORK),
        *results("s"),
        event("ending", FINAL_STATE, **final()),
    ]


def final(**changes: Any) -> dict[str, Any]:
    left: dict[str, Any] = {"files": [], "keys": [], "secrets": [], "messages": []}
    ends = {JOB: ["succeeded"], SERIES_JOB: ["succeeded"]}
    told = {"settled": True, "jobs": [], "superseded": [], "ends_logged": ends, "failures_logged": {}, "aged": 0}
    return {**told, **left, **changes}


def checked(history: History) -> list[Violation]:
    return check(as_events(history))


def as_events(history: History) -> list[Event]:
    return [Event(time_s=float(number), **one) for number, one in enumerate(history)]


def without(f: str, process: str = "") -> Callable[[History], None]:
    """Drop all ends of operations of that name."""

    def change(history: History) -> None:
        history[:] = [
            one
            for one in history
            if one["f"] != f or one["type"] == "invoke" or (process and one["process"] != process)
        ]

    return change


def plus(**changes: Any) -> Callable[[History], None]:
    """One more event, before the end."""
    return lambda history: history.insert(-1, changes)


def ending(**changes: Any) -> Callable[[History], None]:
    def change(history: History) -> None:
        history[-1] = event("ending", FINAL_STATE, **final(**changes))

    return change


def replaced(f: str, value: dict[str, Any]) -> Callable[[History], None]:
    """Other facts in the last event of that name."""

    def change(history: History) -> None:
        found = [one for one in history if one["f"] == f and one["type"] == "ok"]
        found[-1]["value"] = {**found[-1]["value"], **value}

    return change


def test_a_good_history_has_no_violation() -> None:
    assert checked(good()) == []


REFUSED = {"asked": "job", "problem": "", "retry_after": None}


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        pytest.param(without(FINAL_STATE), "unfinished", id="the run was killed"),
        pytest.param(ending(settled=False), "unfinished", id="something is still under way"),
        pytest.param(without("fetch", QUIET), "unfinished", id="nothing to compare with"),
        pytest.param(plus(**event("client-1", "given-up", "info", after_s=180)), "unavailable", id="no answer"),
        pytest.param(without("follow"), "lost job", id="accepted and never ended"),
        pytest.param(plus(**event("client-1", "follow", "fail", job=JOB, status=404)), "lost job", id="unknown later"),
        pytest.param(plus(**event("client-1", "fetch", "fail", job=JOB, status=410)), "lost job", id="gone too early"),
        pytest.param(
            ending(jobs=[{"job": OTHER_JOB, "state": "queued", "error": ""}]), "lost job", id="waiting for ever"
        ),
        pytest.param(replaced("follow", {"state": "failed", "error": "worker-lost"}), "failed job", id="failed"),
        pytest.param(replaced("follow", {"state": "failed", "error": "storage-full"}), "failed job", id="no full disk"),
        pytest.param(replaced("follow", {"state": "cancelled"}), "failed job", id="cancelled by nobody"),
        pytest.param(
            ending(ends_logged={SERIES_JOB: ["failed"]}, failures_logged={SERIES_JOB: "unexpected"}),
            "failed job",
            id="a series' job failed",
        ),
        pytest.param(replaced("look-again", {"finished": 11.0}), "two ends", id="ended at another time"),
        pytest.param(replaced("look-again", {"state": "failed"}), "two ends", id="ended in another way"),
        pytest.param(ending(ends_logged={JOB: ["succeeded", "succeeded"]}), "two ends", id="ended by two workers"),
        pytest.param(without("received", "archive"), "lost series", id="nothing came to the archive"),
        pytest.param(without("called-back"), "lost delivery", id="nobody was called"),
        pytest.param(
            replaced("follow", {"deliveries": [["webhook", "dead", 9]]}), "lost delivery", id="a delivery was given up"
        ),
        pytest.param(replaced("fetch", {"sha256": "other"}), "changed bytes", id="another label map"),
        pytest.param(replaced("network", {"sha256": "other"}), "changed bytes", id="another network"),
        pytest.param(plus(**received("s", "SEG", "s.SEG", pixels="other")), "changed bytes", id="another SEG"),
        pytest.param(plus(**received("s", "SR", "s.SR", sha256="other")), "differing delivery", id="one UID, two SRs"),
        pytest.param(plus(**received("s", "SEG", "9")), "differing delivery", id="one series, two SEGs"),
        pytest.param(
            plus(**event("webhook", "called-back", id=f"{JOB}-0", job=JOB, state="succeeded", sha256="other")),
            "differing delivery",
            id="another callback under one id",
        ),
        pytest.param(
            plus(**event("client-1", "submit", job=OTHER_JOB, scan="small", key="k", called_back=False)),
            "repeated key",
            id="one key, two jobs",
        ),
        pytest.param(replaced("fetch-deleted", {"status": 200}), "undeleted", id="still there"),
        pytest.param(ending(files=["blobs/jobs/x"]), "left over", id="a file"),
        pytest.param(ending(keys=[f"job:{JOB}"]), "left over", id="a key"),
        pytest.param(ending(secrets=["appendonly.aof"]), "left over", id="a secret in the journal"),
        pytest.param(ending(messages=["1 in segmentations"]), "left over", id="a message"),
        pytest.param(plus(**event("c", "refused", "info", **REFUSED, status=500)), "dishonest refusal", id="500"),
        pytest.param(plus(**event("c", "refused", "info", **REFUSED, status=422)), "dishonest refusal", id="422"),
        pytest.param(
            plus(**event("c", "refused", "info", **REFUSED, status=503)), "dishonest refusal", id="503, no Retry-After"
        ),
    ],
)
def test_each_broken_promise_is_found(change: Callable[[History], None], rule: str) -> None:
    history = good()
    change(history)
    assert rule in {violation.rule for violation in checked(history)}


def test_what_is_no_fault_is_none() -> None:
    history = good()
    full = event("nemesis", "fault-begins", "info", kind="fill disk to the last byte")
    partial_job = received("s", "SEG", "part", slices=3, sha256="part", pixels=PIXELS)
    full_disk = end(OTHER_JOB, state="failed", error="storage-full", expires_s=0.0, deliveries=[])
    history[1:1] = [full, partial_job, received("s", "SR", "part of a report")]
    history[-1:-1] = [
        *results("s"),  # once more, the same
        event("client-1", "submit", job=OTHER_JOB, scan="small", key="k2", called_back=False),
        event("client-1", "follow", **full_disk),
        event("client-1", "look-again", "fail", job=OTHER_JOB, status=410),
        event("client-1", "submit", "info", scan="small", key=None),
    ]
    ending(failures_logged={SERIES_JOB: "job-expired"})(history)  # by a worker that had lost the job
    assert checked(history) == []


def test_figures_and_the_page_tell_what_happened() -> None:
    history = good()
    plus(**received("s", "SR", "s.SR"))(history)
    found = figures_of(as_events(history))
    assert (found.jobs, found.series, found.lost, found.differing, found.repeated_deliveries) == (1, 1, 0, 0, 1)
    assert found.faults == {"kill worker": 1}
    assert found.next_success_s == (3.0,)  # the follow's end is the third event after the fault's
    assert found.recoveries_s == ()  # no job was submitted after it
    run = event("run", "parameters", "info", minutes=3, seed=7, retention_s=180, machine="2 cores")
    told = page(found, as_events([*history, run]))
    assert "| kill worker | 1 |" in told
    assert "`make torture ARGS='--minutes 3 --seed 7 --retention-s 180'`, on 2 cores." in told
    without("follow")(history)
    assert figures_of(as_events(history)).lost > 0


def test_percentiles_are_of_the_nearest_rank() -> None:
    values = [float(number) for number in range(1, 101)]
    assert [percentile(values, percent) for percent in (50, 99, 100)] == [50, 99, 100]
    assert percentile([7.0], 99) == 7
