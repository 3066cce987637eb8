"""Who may do what: every route of the app against every kind of key, and jobs that only their owner knows of."""

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi.routing import iter_route_contexts
from openapi_spec_validator import validate
from redis import Redis

from tests.fixtures.dicom_files import mr_series, saved
from tests.fixtures.settings import FactorySettings
from tests.service.conftest import poll, running_gateway
from tests.service.dicomweb.test_dicomweb_store import body
from tests.service.keyed import Asker, KeyedGateway, keyed_gateway, small_scan
from tests.service.test_gateway_problems import assert_problem
from unet_factory.domain.jobs import JobState
from unet_factory.jobs.lifecycle import JobLifecycle
from unet_factory.jobs.store import JobStore
from unet_factory.platform.api_keys import Scope
from unet_factory.platform.blob_store import BlobStore
from unet_factory_service.access.guard import RULES, rule_of
from unet_factory_service.app import create_app, with_access_decided
from unet_factory_service.page.assets import load_assets

JOB_ID = "0" * 32
NOBODYS = "unf_000000000000_" + "0" * 64
ASSET = "/assets/{digest}/{path:path}"
PAGES = {"/", "/docs", "/redoc", ASSET}
PUBLIC = PAGES | {"/openapi.json", "/livez", "/readyz", "/v2/health/live", "/v2/health/ready", "/metrics"}
SCOPES_OF_PATIENT_DATA = {Scope.SEGMENT, Scope.READ, Scope.ADMIN}


@pytest.fixture
def keyed(settings: FactorySettings, redis: Redis) -> Iterator[KeyedGateway]:
    with keyed_gateway(settings, redis) as gateway:
        yield gateway


def routes(settings: FactorySettings) -> list[tuple[str, str]]:
    """(method, path template) of everything that the app answers."""
    contexts = iter_route_contexts(create_app(settings).routes)
    return sorted((method, context.path or "") for context in contexts for method in context.methods or {"GET"})


def test_every_route_has_been_decided_on_and_nothing_else(settings: FactorySettings) -> None:
    there = routes(settings)
    undecided = [route for route in there if rule_of(*route) is None]
    assert undecided == [], "name them in unet_factory_service.access.guard.RULES"
    missing = RULES.keys() - {f"{method} {path}" for method, path in there}
    assert missing == set(), "rules for routes that do not exist"


def test_every_route_against_every_kind_of_key(keyed: KeyedGateway, settings: FactorySettings) -> None:
    askers = {scope: keyed.asker(scope) for scope in Scope}
    for method, template in routes(settings):
        path = template.replace(ASSET, f"/assets/{load_assets().digest}/page.css")
        path = re.sub(r"\{\w*job_id\}", JOB_ID, path)
        path = re.sub(r"\{\w+\}", "1.2.3", path)
        rule = rule_of(method, template)
        assert rule is not None
        nobody = httpx.request(method, f"{keyed.gateway.url}{path}", trust_env=False)
        assert rule.public == (template in PUBLIC)
        if rule.public:
            assert nobody.status_code in (200, 503), template
            continue
        assert nobody.status_code == 401, template
        stranger = Asker("", NOBODYS, keyed.gateway.url).ask(method, path)
        assert stranger.status_code == 401, template
        admitted = {scope for scope, asker in askers.items() if asker.ask(method, path).status_code != 403}
        assert Scope.ADMIN in admitted, template
        if template.startswith(("/segmentations", "/dicomweb")):
            assert admitted <= SCOPES_OF_PATIENT_DATA, template
            assert Scope.READ not in admitted or method in ("GET", "HEAD"), template
        if template.startswith("/deliveries"):
            assert admitted == {Scope.ADMIN}, template
        if template == "/unet":
            assert admitted == {Scope.WEIGHTS, Scope.ADMIN}


def test_a_route_that_nobody_decided_on_answers_nobody(settings: FactorySettings, redis: Redis) -> None:
    with keyed_gateway(settings, redis) as keyed:
        app = keyed.gateway.server.app

        @app.get("/undecided")
        def undecided() -> str:
            return "secret"

        admin = keyed.asker(Scope.ADMIN)
        assert_problem(httpx.get(f"{admin.url}/undecided", trust_env=False), 401)
        assert "secret" not in admin.get("/undecided").text
        assert_problem(admin.get("/undecided"), 403)


def test_who_lacks_a_key_or_a_scope_is_told_so(keyed: KeyedGateway) -> None:
    url = f"{keyed.gateway.url}/unet?spacing=1,1,1"
    missing = httpx.get(url, trust_env=False)
    assert_problem(missing, 401)
    assert missing.headers["WWW-Authenticate"] == 'Bearer realm="unet-factory"'
    for headers in ({"Authorization": f"Bearer {NOBODYS}"}, {"X-API-Key": NOBODYS}, {"X-API-Key": "x" * 5000}):
        wrong = httpx.get(url, headers=headers, trust_env=False)
        assert_problem(wrong, 401)
        assert 'error="invalid_token"' in wrong.headers["WWW-Authenticate"]
        assert NOBODYS not in wrong.text
    lacking = keyed.asker(Scope.SEGMENT).get("/unet?spacing=1,1,1")
    document = assert_problem(lacking, 403)
    assert (document["scope"], document["held"]) == ("weights", ["segment"])
    assert "weights" in document["detail"]
    assert 'scope="weights"' in lacking.headers["WWW-Authenticate"]


def test_either_header_will_do(keyed: KeyedGateway) -> None:
    asker = keyed.asker(Scope.READ)
    for headers in ({"Authorization": f"Bearer {asker.token}"}, {"X-API-Key": asker.token}):
        assert httpx.get(f"{asker.url}/models", headers=headers, trust_env=False).status_code == 200


def test_another_keys_job_is_as_unknown_as_none(keyed: KeyedGateway, tmp_path: Path) -> None:
    owner, other, admin = keyed.asker(Scope.SEGMENT), keyed.asker(Scope.SEGMENT), keyed.asker(Scope.ADMIN)
    viewer = keyed.asker(Scope.READ, shares_jobs_of=owner.id)
    job_id = owner.submit(small_scan(tmp_path)).json()["id"]
    paths = [
        f"/segmentations/{job_id}{part}" for part in ("", "/events", "/labelmap", "/preview.png", "/seg", "/report")
    ]
    for path in paths:
        unknown = other.get(path.replace(job_id, JOB_ID))
        assert_problem(other.get(path), 404)
        assert other.get(path).text == unknown.text.replace(JOB_ID, job_id)
    assert_problem(other.ask("DELETE", paths[0]), 404)
    assert_problem(viewer.ask("DELETE", paths[0]), 403)
    assert [asker.get(paths[0]).status_code for asker in (owner, viewer, admin)] == [200] * 3
    assert owner.ask("DELETE", paths[0]).status_code == 204
    assert [asker.get(paths[0]).status_code for asker in (owner, viewer, admin, other)] == [410, 410, 410, 404]


def test_idempotency_keys_of_two_api_keys_are_two(keyed: KeyedGateway, tmp_path: Path) -> None:
    one, other, scan = keyed.asker(Scope.SEGMENT), keyed.asker(Scope.SEGMENT), small_scan(tmp_path)
    ids = [asker.submit(scan, **{"Idempotency-Key": "same"}).json()["id"] for asker in (one, one, other)]
    assert ids[0] == ids[1] != ids[2]


def test_a_received_series_and_its_results_belong_to_who_sent_it(
    settings: FactorySettings, redis: Redis, tmp_path: Path, lifecycle: JobLifecycle
) -> None:
    """Two send the same series: each has a job of it, and neither sees the other's."""
    series = mr_series()
    content_type = {"Content-Type": 'multipart/related; type="application/dicom"; boundary=b'}
    with keyed_gateway(settings, redis, series_quiet_s=0.3) as keyed:
        senders = [keyed.asker(Scope.SEGMENT) for _ in range(2)]
        for sender in senders:
            stored = sender.ask("POST", "/dicomweb/studies", content=body(series), headers=content_type)
            assert stored.status_code == 200
        jobs = JobStore(redis)
        poll(lambda: jobs.count_active() == 2)
        mine = {jobs.owner(job_id): job_id for job_id in jobs.active_ids()}
        assert mine.keys() == {sender.id for sender in senders}
        for sender, other in (senders, senders[::-1]):
            assert sender.get(f"/segmentations/{mine[sender.id]}").status_code == 200
            assert sender.get(f"/segmentations/{mine[other.id]}").status_code == 404
        first, second = senders
        (result,) = saved(mr_series(slices=1), tmp_path)
        BlobStore(settings.blob_url).put(mine[first.id], "seg.dcm", result)
        assert lifecycle.claim(mine[first.id], "worker", 60)
        assert lifecycle.finish(mine[first.id], "worker", JobState.SUCCEEDED)
        (found,) = first.get("/dicomweb/studies").json()
        study = f"/dicomweb/studies/{found['0020000D']['Value'][0]}"
        assert second.get("/dicomweb/studies").json() == []
        assert [sender.get(study).status_code for sender in senders] == [200, 404]
        assert keyed.asker(Scope.ADMIN).get(study).status_code == 200


def test_a_change_of_keys_holds_at_once_at_every_gateway(settings: FactorySettings, redis: Redis) -> None:
    with keyed_gateway(settings, redis) as first, keyed_gateway(settings, redis) as second:
        old = first.asker(Scope.READ)
        elsewhere = Asker(old.id, old.token, second.gateway.url)
        assert elsewhere.get("/models").status_code == 200
        new = Asker(old.id, first.keys.rotate(old.id, overlap_s=60).token, second.gateway.url)
        assert [asker.get("/models").status_code for asker in (old, elsewhere, new)] == [200] * 3
        first.keys.rotate(old.id, overlap_s=0)
        assert [asker.get("/models").status_code for asker in (old, elsewhere, new)] == [401] * 3
        other = first.asker(Scope.READ)
        first.keys.revoke(other.id)
        assert other.get("/models").status_code == 401


def test_openapi_tells_the_roles(http: httpx.Client) -> None:
    document = http.get("/openapi.json").json()
    validate(document)
    assert document["components"]["securitySchemes"].keys() == {"bearer", "header"}
    paths = document["paths"]
    assert paths["/unet"]["get"]["security"] == [{"bearer": ["weights"]}, {"header": ["weights"]}]
    assert paths["/models"]["get"]["security"] == [{"bearer": []}, {"header": []}]
    assert paths["/livez"]["get"]["security"] == []
    assert {"401", "403", "429"} <= paths["/segmentations/{job_id}"]["delete"]["responses"].keys()
    assert all("security" in operation for path in paths.values() for operation in path.values())


@pytest.mark.parametrize(
    ("host", "said", "decided", "warned"),
    [
        ("127.0.0.1", None, "off", False),
        ("::1", None, "off", False),
        ("localhost", None, "off", False),
        ("127.0.0.1", "required", "required", False),
        ("0.0.0.0", None, "required", False),
        ("::", None, "required", False),
        ("gateway.example.org", None, "required", False),
        ("0.0.0.0", "off", "off", True),
    ],
)
def test_nobody_listens_beyond_this_machine_without_keys_by_accident(
    host: str, said: str | None, decided: str, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    settings = with_access_decided(FactorySettings.model_validate({"authentication": said}), host)
    assert settings.authentication == decided
    assert ("WITHOUT AUTHENTICATION" in caplog.text) is warned


def test_an_app_of_undecided_settings_asks_for_keys(settings: FactorySettings) -> None:
    assert settings.authentication is None
    with running_gateway(settings.model_copy(update={"authentication": "off"})) as open_gateway:
        assert open_gateway.http.get("/models").status_code == 200
        app = open_gateway.server.app
        object.__setattr__(app.state.gateway, "settings", settings)
        assert open_gateway.http.get("/models").status_code == 401
