"""Reads a history and proves, or refutes, that the factory kept its promises. Pure: it sees nothing but the events.

- Every accepted job ends, once, and stays so; it succeeds unless the disk was full.
- Every stored series becomes results in the archive; every callback that a job says was made was received.
- Label maps, segmentations and networks equal those of the quiet run before the faults, bit for bit.
- What is delivered, or fetched, twice is the same twice: one UID has one content, one series one SEG and one SR.
- One Idempotency-Key makes one job.
- What was deleted, or has expired, is gone: from answers, disk and Redis.
- Who keeps asking gets an answer within minutes, whatever faults there are.
- Refusals are those that a valid request may get: 408, 410 of what is gone, 429 and 503 with Retry-After, 507.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from tests.torture.history import Event

QUIET = "quiet"
FINAL_STATE = "final-state"
STORED_SERIES = ("stow", "c-store")
HONEST = {408, 503, 507}
COMES_BACK = {429, 503}
GONE = 410
TOO_LATE_S = 1.0  # by which a job may expire before its time: clocks and answers under way

# operation, what it is of, what must be equal
_COMPARED = (("fetch", "scan", "sha256"), ("fetch-seg", "scan", "pixels"), ("network", "spacing", "sha256"))
_DISK_FAULT = "fill disk"
_FULL = "storage-full"


class Violation(NamedTuple):
    """``rule`` is what was broken; ``what`` names the job, series or answer."""

    rule: str
    what: str


def check(events: list[Event]) -> list[Violation]:
    """Everything that was not as promised, in the order of the rules."""
    rules = (
        _finished,
        _unavailable,
        _lost_jobs,
        _failures,
        _two_ends,
        _lost_series,
        _lost_callbacks,
        _changed_results,
        _differing_deliveries,
        _repeated_series,
        _repeated_keys,
        _undeleted,
        _left_over,
        _dishonest_refusals,
    )
    return [violation for rule in rules for violation in rule(events)]


def _finished(events: list[Event]) -> Iterator[Violation]:
    """A history without its end, or without the quiet run, proves nothing."""
    if not _done(events, FINAL_STATE):
        yield Violation("unfinished", "the run has no final state")
    if not _final(events).get("settled"):
        yield Violation("unfinished", "jobs, series or deliveries were still under way at the end")
    if not [event for event in _done(events, "fetch") if event.process == QUIET]:
        yield Violation("unfinished", "there is no quiet run to compare with")


def _unavailable(events: list[Event]) -> Iterator[Violation]:
    """No fault lasts for long, so nobody who keeps asking may go without an answer for minutes."""
    for event in events:
        if event.f == "given-up":
            yield Violation("unavailable", f"{event.process} gave up after {event.value['after_s']:g} s of asking")


def _lost_jobs(events: list[Event]) -> Iterator[Violation]:
    """Accepted, and never seen to end; or refused as unknown later, or before its time was over."""
    ended = {event.value["job"] for event in _done(events, "follow")}
    for event in _done(events, "submit"):
        if event.value["job"] not in ended:
            yield Violation("lost job", f"{event.value['job']} was accepted and never seen to end")
    expires = {event.value["job"]: event.value["expires_s"] for event in _done(events, "follow")}
    for event in events:
        if event.type == "fail" and event.f in ("follow", "look-again", "fetch", "fetch-seg", "delete"):
            job = event.value["job"]
            if not (event.value["status"] == GONE and event.time_s > expires.get(job, float("inf")) - TOO_LATE_S):
                yield Violation("lost job", f"{job}: {event.f} answered {event.value['status']}")
    for job in _final(events).get("jobs", []):
        if job["state"] not in ("succeeded", "failed", "cancelled"):
            yield Violation("lost job", f"{job['job']} is {job['state']} at the end")


def _failures(events: list[Event]) -> Iterator[Violation]:
    """Every input can be segmented, so a job fails for want of disk space alone."""
    final = _final(events)
    seen = {event.value["job"]: event.value for event in _done(events, "follow")}
    seen |= {job["job"]: job for job in final.get("jobs", [])}
    reasons = _logged_failures(events) | {job: one["error"] for job, one in seen.items() if one["state"] == "failed"}
    for job, reason in reasons.items():
        if not (reason == _FULL and _disk_was_full(events)):
            yield Violation("failed job", f"{job}: {reason}")
    for job, one in seen.items():
        if one["state"] == "cancelled" and job not in final.get("superseded", []):
            yield Violation("failed job", f"{job} was cancelled by nobody")


def _two_ends(events: list[Event]) -> Iterator[Violation]:
    """Seen to end in two ways, or ended twice by the roles' own words."""
    ends = defaultdict[str, set[tuple[str, float]]](set)
    for event in [*_done(events, "follow"), *_done(events, "look-again")]:
        ends[event.value["job"]].add((event.value["state"], event.value["finished"]))
    for job, seen in ends.items():
        if len(seen) > 1:
            yield Violation("two ends", f"{job}: {sorted(seen)}")
    for job, lines in _final(events).get("ends_logged", {}).items():
        if len(lines) > 1:
            yield Violation("two ends", f"{job} was ended {len(lines)} times: {', '.join(lines)}")


def _lost_series(events: list[Event]) -> Iterator[Violation]:
    """Stored, and its segmentation or report never came to the archive.

    A job that failed for want of space sends nothing. Nothing says of which series it was, so as many may be missing.
    """
    whole = _whole_series(events)
    followed = {event.value["job"] for event in _done(events, "follow")}
    excused = len(_logged_failures(events).keys() - followed)
    stored = [event.value["study"] for event in events if event.type == "ok" and event.f in STORED_SERIES]
    missing = [study for study in stored if not {"SEG", "SR"} <= whole[study].keys()]
    for study in missing[excused:]:
        yield Violation("lost series", f"{study} was stored, and the archive has not got its results")


def _lost_callbacks(events: list[Event]) -> Iterator[Violation]:
    called = {event.value["job"] for event in events if event.f == "called-back"}
    for event in _done(events, "follow"):
        for kind, state, _ in event.value["deliveries"]:
            if state != "delivered":
                yield Violation("lost delivery", f"{event.value['job']}: its {kind} is {state}")
            elif kind == "webhook" and event.value["job"] not in called:
                yield Violation("lost delivery", f"{event.value['job']} says that it called back, and did not")


def _changed_results(events: list[Event]) -> Iterator[Violation]:
    """Other bytes than in the quiet run."""
    for f, by, field in (
        ("fetch", "scan", "sha256"),
        ("fetch-seg", "scan", "pixels"),
        ("network", "spacing", "sha256"),
    ):
        quiet = {event.value[by]: event.value[field] for event in _done(events, f) if event.process == QUIET}
        for event in _done(events, f):
            if event.value[field] != quiet.get(event.value[by]):
                what = event.value.get("job", event.value[by])
                yield Violation("changed bytes", f"{what}: {f} of {event.value[by]} is not what the quiet run gave")
    sent = [event for event in events if event.f in STORED_SERIES and event.type == "invoke"]
    kinds = {event.value["study"]: event.value["kind"] for event in sent}
    quiet_studies = {event.value["study"] for event in sent if event.process == QUIET}
    whole = _whole_series(events)
    expected = {kinds[study]: whole[study]["SEG"] for study in quiet_studies if "SEG" in whole[study]}
    for study, results in whole.items():
        for one in results.get("SEG", []):
            if one["pixels"] != expected[kinds[study]][0]["pixels"]:
                yield Violation("changed bytes", f"the SEG of {study} is not what the quiet run gave")


def _differing_deliveries(events: list[Event]) -> Iterator[Violation]:
    """The same id twice, and not the same content."""
    contents = defaultdict[tuple[str, str], set[str]](set)
    for event in events:
        if event.f == "received":
            contents["object", event.value["uid"]].add(event.value["sha256"])
        elif event.f == "called-back":
            contents["callback", event.value["id"]].add(event.value["sha256"])
        elif event.f == "fetch-seg" and event.type == "ok":
            contents["SEG of job", event.value["job"]].add(event.value["uid"] + event.value["sha256"])
    for (kind, name), found in contents.items():
        if len(found) > 1:
            yield Violation("differing delivery", f"{kind} {name} came with {len(found)} contents")


def _repeated_series(events: list[Event]) -> Iterator[Violation]:
    """A whole series whose results came under two UIDs: two jobs were made of it."""
    for study, results in _whole_series(events).items():
        for modality, found in results.items():
            uids = {one["uid"] for one in found}
            if len(uids) > 1:
                yield Violation("differing delivery", f"{study} has {len(uids)} {modality} objects")


def _repeated_keys(events: list[Event]) -> Iterator[Violation]:
    jobs = defaultdict[str, set[str]](set)
    for event in _done(events, "submit"):
        if event.value["key"] is not None:
            jobs[event.value["key"]].add(event.value["job"])
    for key, found in jobs.items():
        if len(found) > 1:
            yield Violation("repeated key", f"the key {key} made {len(found)} jobs: {', '.join(sorted(found))}")


def _undeleted(events: list[Event]) -> Iterator[Violation]:
    for event in _done(events, "fetch-deleted"):
        if event.value["status"] != GONE:
            yield Violation("undeleted", f"{event.value['job']} was deleted and answers {event.value['status']}")


def _left_over(events: list[Event]) -> Iterator[Violation]:
    """After everything was deleted or has expired, and what killed processes left has had its two hours."""
    final = _final(events)
    for kind in ("files", "keys", "secrets", "messages"):
        for name in final.get(kind, []):
            yield Violation("left over", f"{kind}: {name}")


def _dishonest_refusals(events: list[Event]) -> Iterator[Violation]:
    """The requests are valid: only a fault or the end of a job's time can be in their way."""
    for event in events:
        if event.f != "refused":
            continue
        status = event.value["status"]
        told = f"{event.value['asked']} was refused with {status} ({event.value['problem']})"
        if status not in HONEST | COMES_BACK | {GONE}:
            yield Violation("dishonest refusal", told)
        elif status in COMES_BACK and event.value["retry_after"] is None:
            yield Violation("dishonest refusal", f"{told} without Retry-After")


def _done(events: Iterable[Event], f: str) -> list[Event]:
    return [event for event in events if event.f == f and event.type == "ok"]


def _final(events: list[Event]) -> dict[str, Any]:
    found = _done(events, FINAL_STATE)
    return found[-1].value if found else {}


def _logged_failures(events: list[Event]) -> dict[str, str]:
    """By job, for what it failed by its worker's words; a worker that had lost the job by then did not end it."""
    final = _final(events)
    ends = final.get("ends_logged", {})
    return {job: reason for job, reason in final.get("failures_logged", {}).items() if "failed" in ends.get(job, ())}


def _disk_was_full(events: list[Event]) -> bool:
    return any(event.f == "fault-begins" and event.value["kind"].startswith(_DISK_FAULT) for event in events)


def _whole_series(events: list[Event]) -> defaultdict[str, dict[str, list[dict[str, Any]]]]:
    """Of each study by modality: what the archive received for all of its slices, and not for a part of them.

    A series of which a part was forwarded first becomes a job of that part, and later one of the whole. A report has
    no count of slices, so it counts as the whole's if no SEG of a part has come.
    """
    received = [event.value for event in events if event.f == "received"]
    most = max((one.get("slices", 0) for one in received), default=0)
    parts = {one["study"] for one in received if one["modality"] == "SEG" and one["slices"] < most}
    found = defaultdict[str, dict[str, list[dict[str, Any]]]](dict)
    for one in received:
        if one.get("slices", most) == most:
            same = found[one["study"]].setdefault(one["modality"], [])
            if one["modality"] == "SEG" or one["study"] not in parts or not same:
                same.append(one)
    return found
