"""What finished jobs cost, in Redis: measurements by kind of worker and checkpoint, from which prices are predicted.

| key | type | holds |
|---|---|---|
| ``costs:DIGEST`` | hash | kinds of worker that have run the checkpoint: :class:`WorkerKind` by the kind's id |
| ``costs:DIGEST:KIND:calibration`` | list | measurements on scans made for it, which keep the fit sound |
| ``costs:DIGEST:KIND:jobs`` | list | measurements of the last jobs, the newest first |
| ``costs:service`` | list | seconds of the last jobs of all workers, the newest first |

They say nothing of a patient: counts of voxels, seconds and bytes. What nobody adds to for ``KEPT_S`` is forgotten.
"""

import hashlib
from functools import lru_cache
from typing import Any, NamedTuple

from redis import Redis

from unet_factory.domain.cost_model import CostModel, Observation
from unet_factory.domain.quote import WorkerKind
from unet_factory.jobs.scripts import lua

KEPT_S = 90 * 24 * 3600
KEPT_JOBS = 64
KEPT_CALIBRATION = 16

_SERVICE = "costs:service"
_KEPT_SERVICE = 32
_FITS = 64


class KnownCosts(NamedTuple):
    kind: WorkerKind
    model: CostModel


class CostStore:
    """Synchronous; safe to share between threads and processes: a measurement is one atomic addition."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._add = redis.register_script(lua("add_cost"))

    def add(self, kind: WorkerKind, digest: str, seen: Observation) -> None:
        """A finished job's cost."""
        self._push(kind, digest, "jobs", seen, KEPT_JOBS, _SERVICE)

    def add_calibration(self, kind: WorkerKind, digest: str, seen: Observation) -> None:
        self._push(kind, digest, "calibration", seen, KEPT_CALIBRATION)

    def calibrations(self, kind: WorkerKind, digest: str) -> int:
        """How many measurements on scans made for it there are."""
        return int(self._redis.llen(_list_key(digest, kind_id(kind), "calibration")))

    def model(self, kind: WorkerKind, digest: str) -> CostModel | None:
        """None where the kind was measured too seldom."""
        return self._fitted(digest, [kind_id(kind)])[0]

    def known(self, digest: str) -> list[KnownCosts]:
        """Of every kind of worker that has run the checkpoint."""
        kinds: Any = self._redis.hgetall(_kinds_key(digest))
        ids = sorted(raw.decode() for raw in kinds)
        models = self._fitted(digest, ids)
        known = [
            KnownCosts(WorkerKind.model_validate_json(kinds[each.encode()]), model)
            for each, model in zip(ids, models, strict=True)
            if model is not None
        ]
        if forgotten := [each for each, model in zip(ids, models, strict=True) if model is None]:
            self._redis.hdel(_kinds_key(digest), *forgotten)  # one that is measured again is added again
        return known

    def mean_service_s(self) -> float | None:
        """How long the last jobs took on average; None before the first."""
        values: Any = self._redis.lrange(_SERVICE, 0, -1)
        return sum(map(float, values)) / len(values) if values else None

    def _push(self, kind: WorkerKind, digest: str, part: str, seen: Observation, kept: int, *service: str) -> None:
        of_kind = kind_id(kind)
        self._add(
            keys=[_kinds_key(digest), _list_key(digest, of_kind, part), *service],
            args=[
                of_kind,
                kind.model_dump_json(),
                seen.model_dump_json(),
                kept,
                KEPT_S,
                repr(seen.seconds),
                _KEPT_SERVICE,
            ],
        )

    def _fitted(self, digest: str, ids: list[str]) -> list[CostModel | None]:
        with self._redis.pipeline(transaction=False) as pipeline:
            for each in ids:
                pipeline.lrange(_list_key(digest, each, "jobs"), 0, -1)
                pipeline.lrange(_list_key(digest, each, "calibration"), 0, -1)
            found = pipeline.execute()
        return [
            _fit(tuple(jobs), tuple(calibration)) for jobs, calibration in zip(found[::2], found[1::2], strict=True)
        ]


def kind_id(kind: WorkerKind) -> str:
    return hashlib.sha256(kind.model_dump_json().encode()).hexdigest()[:16]


@lru_cache(maxsize=_FITS)
def _fit(jobs: tuple[bytes, ...], calibration: tuple[bytes, ...]) -> CostModel | None:
    return CostModel.fit(*([Observation.model_validate_json(each) for each in part] for part in (jobs, calibration)))


def _kinds_key(digest: str) -> str:
    return f"costs:{digest}"


def _list_key(digest: str, kind: str, part: str) -> str:
    return f"costs:{digest}:{kind}:{part}"
