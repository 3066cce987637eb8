"""Each part of an installation is sound, then spoilt as it is in practice: its verdict must turn."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis import Redis

from tests.fixtures.settings import FactorySettings
from tests.system.gateway_process import gateway_process
from tests.system.processes import free_port
from unet_factory.domain.jobs import SEGMENT_QUEUE
from unet_factory.jobs.presence import WorkerPresence, announce
from unet_factory.platform.api_keys import KeyStore, Scope
from unet_factory.platform.model_registry import ModelRegistry
from unet_factory_cli.doctor.examination import examine
from unet_factory_cli.doctor.findings import Finding, Verdict
from unet_factory_cli.embedded import CACHE_OPTIONS, EmbeddedServer
from unet_factory_cli.own_key import API_KEY_FILE

Examine = Callable[..., dict[str, list[Finding]]]


@pytest.fixture(scope="module")
def cache_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    server = EmbeddedServer.start(tmp_path_factory.mktemp("cache"), CACHE_OPTIONS)
    yield server.redis_url
    server.stop()


@pytest.fixture
def by_part(settings: FactorySettings, cache_url: str, redis: Redis, tmp_path: Path) -> Examine:
    """Findings by part, of an installation with a worker and a key but for the changed settings."""
    models = {model.manifest.name: model.digest for model in ModelRegistry.scan(settings.models_dir).all()}
    announce(redis, "one", WorkerPresence(device="cpu", models=models, started=time.time(), pid=1), ttl_s=60)
    KeyStore(redis).create("tests", (Scope.SEGMENT,))

    def look(url: str = f"http://127.0.0.1:{free_port()}", **changes: object) -> dict[str, list[Finding]]:
        changed = settings.model_copy(update={"cache_url": cache_url} | changes)
        found: dict[str, list[Finding]] = {}
        for finding in examine(changed, url, tmp_path):
            found.setdefault(finding.part, []).append(finding)
        return found

    return look


def worst(findings: list[Finding]) -> Verdict:
    return max((finding.verdict for finding in findings), key=list(Verdict).index)


def test_a_sound_installation_has_nothing_to_mend_but_the_gateway_that_is_away(
    by_part: Examine, settings: FactorySettings
) -> None:
    found = by_part()
    assert {part for part, findings in found.items() if worst(findings) is Verdict.FAILED} == {"gateway"}
    for part in ("job store", "weight cache", "clock", "blob store", "disk", "models", "workers", "API keys", "queue"):
        assert worst(found[part]) is Verdict.OK, found[part]
    assert all(finding.advice for part in found.values() for finding in part if finding.verdict is not Verdict.OK)
    left = Path(settings.blob_url.removeprefix("file://"))
    assert [path for path in left.rglob("*") if path.is_file()] == []


def test_what_the_job_store_would_lose_is_told(by_part: Examine, redis: Redis) -> None:
    redis.config_set("appendonly", "no")
    redis.config_set("maxmemory-policy", "allkeys-lru")
    try:
        found = by_part()["job store"]
    finally:
        redis.config_set("appendonly", "yes")
        redis.config_set("maxmemory-policy", "noeviction")
    assert {finding.verdict for finding in found} == {Verdict.OK, Verdict.WARNING, Verdict.FAILED}
    assert any("allkeys-lru" in finding.found for finding in found)


def test_a_store_that_is_away_is_named_without_its_password(by_part: Examine) -> None:
    away = f"redis://:hidden@127.0.0.1:{free_port()}/0"
    found = by_part(redis_url=away, cache_url=away)
    assert worst(found["job store"]) is Verdict.FAILED
    assert "hidden" not in str(found)
    assert "workers" not in found


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        ("weight cache", {"cache_url": ""}),
        ("blob store", {"min_free_bytes": 2**62}),
        ("blob store", {"blob_url": "nothing://here"}),
        ("models", {"models_dir": Path("nowhere")}),
        ("destinations", {"destinations": Path("nowhere.yml")}),
        ("API keys", {"authentication": "off"}),
    ],
)
def test_a_wrong_setting_turns_the_verdict_of_its_part(by_part: Examine, part: str, changes: dict[str, object]) -> None:
    findings = by_part(**changes)[part]
    assert worst(findings) is not Verdict.OK
    assert all(finding.advice for finding in findings if finding.verdict is not Verdict.OK)


def test_a_damaged_model_and_one_that_no_worker_has_are_told(
    by_part: Examine, tiny_models: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "damaged.safetensors").write_bytes(b"damaged")
    (folder / "tiny.safetensors").write_bytes((tiny_models / "tiny.safetensors").read_bytes()[:-1] + b"\1")
    found = by_part(models_dir=folder)
    assert any("damaged.safetensors" in finding.found for finding in found["models"])
    assert worst(found["workers"]) is Verdict.WARNING


def test_no_worker_no_key_and_a_full_queue_fail(by_part: Examine, redis: Redis) -> None:
    redis.flushall()
    redis.rpush(SEGMENT_QUEUE, "waits")
    found = by_part(authentication="required", max_queued_jobs=1)
    assert {part: worst(found[part]) for part in ("workers", "API keys", "queue")} == dict.fromkeys(
        ("workers", "API keys", "queue"), Verdict.FAILED
    )


def test_the_key_for_the_gateway_is_tried(
    by_part: Examine, settings: FactorySettings, redis: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part, file = "key for the gateway", tmp_path / "key"
    monkeypatch.setenv(API_KEY_FILE, str(file))
    right = KeyStore(redis).create("commands", (Scope.SEGMENT,)).token
    with gateway_process(settings, tmp_path / "log", authentication="required") as (host, port):
        tried = {}
        for name, text in {"wrong": "no key at all", "right": right}.items():
            file.write_text(text)
            tried[name] = by_part(url=f"http://{host}:{port}")[part]
        file.unlink()
        tried["missing"] = by_part(url=f"http://{host}:{port}")[part]
    assert {name: worst(found) for name, found in tried.items()} == {
        "wrong": Verdict.FAILED,
        "right": Verdict.OK,
        "missing": Verdict.FAILED,
    }
    assert right not in str(tried)
    file.write_text(right)
    assert part not in by_part()  # without a gateway there is nothing to try it on
