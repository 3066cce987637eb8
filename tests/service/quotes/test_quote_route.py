"""``POST /quote`` of the real gateway: prices from what was measured, told apart from what nobody measured."""

from typing import Any

import httpx
import nibabel
import numpy as np
import pytest
from redis import Redis

from tests.fixtures.settings import FactorySettings
from unet_factory.domain.cost_model import Observation
from unet_factory.domain.quote import Quote, WorkerKind
from unet_factory.domain.spacing import OutsidePolicy, plan_spacing
from unet_factory.domain.workload import workload_of
from unet_factory.jobs.costs import KEPT_JOBS, CostStore
from unet_factory.jobs.presence import WorkerPresence, announce
from unet_factory.platform.model_registry import ModelRegistry
from unet_factory_client import FactoryClient

CPU = WorkerKind(device="cpu (a)", precision="float32", threads=2, version="1")
GPU = WorkerKind(device="cuda (b)", precision="float32", threads=8, version="1")
SCAN: dict[str, Any] = {"model": "tiny", "shape": [40, 34, 20], "spacing": [0.75, 1.5, 2.0]}


def record(redis: Redis, settings: FactorySettings, kind: WorkerKind, seconds_per_voxel: float, jobs: int = 6) -> None:
    model = ModelRegistry.scan(settings.models_dir).get()
    for extent in range(10, 10 + 5 * jobs, 5):
        plan = plan_spacing((1.0, 1.0, 1.0), model.manifest.grid, OutsidePolicy.CLAMP)
        work = workload_of(model.manifest, (extent, extent, extent), plan)
        seconds = seconds_per_voxel * work.windows * work.window_voxels
        seen = Observation(
            work=work, read_s=1e-3, weights_s=1e-3, infer_s=seconds, write_s=1e-3, peak_bytes=10**6 + 40 * extent**3
        )
        CostStore(redis).add(kind, model.digest, seen)


def volume_file(shape: tuple[int, int, int]) -> bytes:
    voxels = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    return bytes(nibabel.Nifti1Image(voxels, np.eye(4)).to_bytes())


def up(redis: Redis, digest: str, kind: WorkerKind) -> None:
    presence = WorkerPresence(device="d", models={"tiny": digest}, started=0, pid=1, kind=kind)
    announce(redis, kind.device, presence, ttl_s=600)


def kept(redis: Redis) -> set[bytes]:
    """All keys but those of maintenance, which never rests."""
    return {key for key in redis.keys("*") if isinstance(key, bytes) and not key.startswith(b"maintenance")}


def ask(http: httpx.Client, **wishes: Any) -> Quote:
    response = http.post("/quote", json=SCAN | wishes)
    assert response.status_code == 200, response.text
    return Quote.model_validate_json(response.content)


def test_what_nobody_measured_is_unknown_and_never_guessed(
    http: httpx.Client, redis: Redis, worker_present: None
) -> None:
    before = kept(redis)
    quote = ask(http, budget_seconds=100.0)
    assert (quote.measurements, quote.chosen) == (0, None)
    assert {option.seconds for option in quote.options} == {option.peak_bytes for option in quote.options} == {None}
    assert quote.options[0].native
    assert quote.options[0].tiles > 0
    assert kept(redis) == before  # nothing was queued or recorded
    assert redis.llen("segmentations") == redis.llen("weights") == 0


def test_the_whole_curve_follows_what_was_measured(
    http: httpx.Client, redis: Redis, settings: FactorySettings, digest: str
) -> None:
    record(redis, settings, CPU, 1e-5)
    up(redis, digest, CPU)
    quote = ask(http)
    assert (quote.worker, quote.measurements) == (CPU, 6)
    assert quote.queue.model_dump() == {"jobs": 0, "workers": 1, "seconds": 0.0}
    native, *coarser = quote.options
    assert native.spacing == pytest.approx((0.75, 1.5, 2.0))
    assert native.seconds == pytest.approx(1e-5 * native.tiles * 32 * 32 * 20, rel=0.2)
    assert [option.native for option in coarser] == [False] * len(coarser)
    seconds = [option.seconds or 0.0 for option in quote.options]
    assert seconds[-1] < seconds[0]
    assert all(option.seconds_high is not None and option.seconds_high >= (option.seconds or 0) for option in coarser)


def test_a_budget_names_the_finest_spacing_that_keeps_it(
    http: httpx.Client, redis: Redis, settings: FactorySettings, digest: str
) -> None:
    record(redis, settings, CPU, 1e-5)
    options = ask(http).options
    dearest, cheapest = options[0].seconds_high, min(option.seconds_high or 0.0 for option in options)
    assert dearest is not None
    assert ask(http, budget_seconds=dearest + 0.001).chosen == 0
    between = ask(http, budget_seconds=(dearest + cheapest) / 2).chosen
    assert between is not None
    assert between > 0
    assert ask(http, budget_seconds=cheapest / 2).chosen is None
    assert ask(http, budget_bytes=1).chosen is None


def test_a_first_look_has_its_price(http: httpx.Client, redis: Redis, settings: FactorySettings, digest: str) -> None:
    record(redis, settings, CPU, 1e-5)
    plain, progressive = ask(http).options[0], ask(http, progressive=True).options[0]
    assert 1.1 < (progressive.seconds or 0.0) / (plain.seconds or 1.0) < 1.2
    assert progressive.peak_bytes == plain.peak_bytes


def test_one_kind_of_worker_never_spoils_anothers_figures(
    http: httpx.Client, redis: Redis, settings: FactorySettings, digest: str
) -> None:
    record(redis, settings, CPU, 1e-5)
    alone = ask(http)
    record(redis, settings, GPU, 1e-7)
    up(redis, digest, CPU)
    assert ask(http).options == alone.options
    up(redis, digest, GPU)  # any of them may take the job: the slower one's price is quoted
    assert ask(http).worker == CPU
    redis.delete(f"worker:{CPU.device}")
    fast = ask(http)
    assert fast.worker == GPU
    assert (fast.options[0].seconds or 1.0) < (alone.options[0].seconds or 0.0) / 5


def test_what_is_kept_is_bounded(redis: Redis, settings: FactorySettings, digest: str) -> None:
    record(redis, settings, CPU, 1e-5, jobs=KEPT_JOBS + 9)
    assert max(redis.llen(key) for key in redis.keys("costs:*:jobs")) == KEPT_JOBS
    model = CostStore(redis).model(CPU, digest)
    assert model is not None
    assert model.observations == KEPT_JOBS
    assert all(redis.ttl(key) > 0 for key in redis.keys("costs:*"))


def test_a_budget_that_nobody_can_keep_is_refused_before_it_is_queued(
    http: httpx.Client, redis: Redis, settings: FactorySettings, digest: str
) -> None:
    scan = volume_file((40, 34, 20))
    record(redis, settings, CPU, 1e-5)
    up(redis, digest, CPU)
    refused = http.post("/segmentations", files={"file": scan}, data={"budget_seconds": "0.00001"})
    assert refused.status_code == 422, refused.text
    problem = refused.json()
    assert problem["type"].endswith(":budget-too-small")
    assert redis.zcard("jobs:active") == 0
    enough = {"budget_seconds": str(2 * problem["least_seconds"])}
    assert http.post("/segmentations", files={"file": scan}, data=enough).status_code == 202
    unmeasured = {"budget_seconds": "0.00001"}
    redis.delete(f"worker:{CPU.device}")
    up(redis, digest, GPU)  # was never measured: it may be fast enough
    assert http.post("/segmentations", files={"file": scan}, data=unmeasured).status_code == 202
    up(redis, digest, CPU)  # may take the job as well
    assert http.post("/segmentations", files={"file": scan}, data=unmeasured).status_code == 422
    for wrong in ("0", "-1", "nan", "much"):
        answer = http.post("/segmentations", files={"file": scan}, data={"budget_seconds": wrong})
        assert answer.status_code == 400, answer.text


@pytest.mark.parametrize(
    ("wishes", "status", "problem"),
    [
        ({"model": "none"}, 404, "unknown-model"),
        ({"shape": [0, 1, 1]}, 400, "malformed-request"),
        ({"shape": [4, 4]}, 400, "malformed-request"),
        ({"shape": [4.5, 4, 4]}, 400, "malformed-request"),
        ({"shape": [100000, 100000, 100000]}, 413, "volume-too-large"),
        ({"spacing": [0.0, 1.0, 1.0]}, 422, "spacing-invalid"),
        ({"spacing": [9.0, 9.0, 9.0], "outside": "reject"}, 422, "spacing-out-of-range"),
        ({"budget_seconds": 0}, 400, "malformed-request"),
        ({"surprise": 1}, 400, "malformed-request"),
    ],
)
def test_what_cannot_be_quoted_is_refused_in_words(
    http: httpx.Client, wishes: dict[str, Any], status: int, problem: str
) -> None:
    response = http.post("/quote", json=SCAN | wishes)
    assert response.status_code == status, response.text
    assert response.json()["type"].endswith(f":{problem}")


def test_finished_jobs_refine_the_prices_and_the_client_reads_them(
    http: httpx.Client, worker: None, tmp_path: Any
) -> None:
    with FactoryClient(str(http.base_url)) as client:
        for extent in (12, 24, 40):
            scan = tmp_path / f"{extent}.nii"
            scan.write_bytes(volume_file((extent, extent, extent)))
            client.segment(scan, tmp_path / "labels.nii.gz")
        quote = client.quote((40, 40, 40), tuple(np.ones(3, np.float32)), budget_seconds=3600.0)
    assert (quote.measurements, quote.chosen) == (3, 0)
    assert quote.worker is not None
    assert quote.worker.precision == "float32"
    assert (quote.options[0].seconds or 0.0) > 0
