"""GET /unet: the bytes, their name, their parts, and who makes them."""

import base64
import hashlib
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from redis import Redis

from tests.fixtures.project import PROJECT
from tests.fixtures.settings import FactorySettings
from tests.service.conftest import Gateway, poll
from unet_factory.domain.errors import OutOfMemory
from unet_factory.domain.jobs import WEIGHTS_QUEUE, GenerationRequest, NetworkFormat
from unet_factory.domain.problems import problem_of
from unet_factory.domain.spacing import SnappedSpacing
from unet_factory.model.checkpoint import load_checkpoint, load_unet, standalone_bytes
from unet_factory.platform.manifest_file import read_standalone_manifest
from unet_factory.platform.weight_cache import WeightCache, weight_key

URL = "/unet?spacing=1,0.5,0.5"
SNAPPED = (1000, 500, 500)
ASKERS = 50


@pytest.fixture
def wanted(digest: str) -> GenerationRequest:
    """What ``URL`` asks a worker for."""
    return GenerationRequest(model="tiny", checkpoint_digest=digest, snapped_um=SNAPPED)


@pytest.fixture
def made(settings: FactorySettings) -> bytes:
    """The network of ``URL``."""
    return standalone_bytes(load_checkpoint(settings.models_dir / "tiny.safetensors"), SnappedSpacing(*SNAPPED))


@pytest.fixture
def cached(redis: Redis, wanted: GenerationRequest, made: bytes) -> bytes:
    """It lies in the cache, and no worker is there."""
    WeightCache(redis).put(wanted, made)
    return made


def test_a_worker_s_network_arrives_with_its_description(
    http: httpx.Client, worker: None, digest: str, tmp_path: Path
) -> None:
    answer = http.get("/unet", params={"spacing": "1.01,0.52,0.5"})
    assert answer.status_code == 200, answer.text
    sha256 = hashlib.sha256(answer.content)
    base64_digest = base64.b64encode(sha256.digest()).decode()
    assert answer.headers["ETag"] == f'"{sha256.hexdigest()}"'
    assert answer.headers["Digest"] == f"sha-256={base64_digest}"
    assert answer.headers["Repr-Digest"] == f"sha-256=:{base64_digest}:"
    assert answer.headers["X-Requested-Spacing"] == "1.01,0.52,0.5"
    assert answer.headers["X-Snapped-Spacing"] == "1,0.5,0.5"
    assert answer.headers["X-Checkpoint-Digest"] == f"sha256:{digest}"
    assert answer.headers["X-Out-Of-Range"] == "false"
    assert answer.headers["Cache-Control"] == "no-cache"
    assert 'filename="tiny-1x0.5x0.5mm-float32.safetensors"' in answer.headers["Content-Disposition"]
    file = tmp_path / "unet.safetensors"
    file.write_bytes(answer.content)
    unet = load_unet(file)
    assert unet.manifest is not None
    assert unet.manifest.snapped_um == SNAPPED


def test_equal_snapped_spacings_are_the_same_bytes_and_dtypes_are_not(http: httpx.Client, worker: None) -> None:
    first = http.get("/unet?spacing=1.01,0.52,0.5")
    assert http.get("/unet?spacing=0.99,0.5,0.48").content == first.content
    half = http.get("/unet?spacing=1,0.5,0.5&dtype=float16")
    assert read_standalone_manifest(half.content).dtype == "float16"
    assert len(half.content) < len(first.content)


def test_the_cache_answers_without_a_worker(http: httpx.Client, cached: bytes, redis: Redis) -> None:
    assert http.get(URL).content == cached
    assert redis.llen(WEIGHTS_QUEUE) == 0


def test_a_head_is_a_get_without_its_body(http: httpx.Client, cached: bytes) -> None:
    get, head = http.get(URL), http.head(URL)
    assert head.status_code == 200
    assert head.content == b""
    assert _without_date(head) == _without_date(get)


@pytest.mark.parametrize(
    ("pattern", "status"),
    [
        ("{etag}", 304),
        ("W/{etag}", 304),
        ('"other", {etag}', 304),
        ('W/"a", W/{etag}, "b"', 304),
        ("*", 304),
        ('"other"', 200),
        ('W/"other"', 200),
        ("{bare}", 200),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_known_bytes_are_not_sent_again(
    http: httpx.Client, cached: bytes, method: str, pattern: str, status: int
) -> None:
    digest = hashlib.sha256(cached).hexdigest()
    known = pattern.format(etag=f'"{digest}"', bare=digest)
    answer = http.request(method, URL, headers={"If-None-Match": known})
    assert answer.status_code == status
    assert answer.headers["ETag"] == f'"{digest}"'
    assert answer.headers["Cache-Control"] == "no-cache"
    if status == 304:
        assert answer.content == b""


@hypothesis_settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)
@given(data=st.data())
def test_a_range_is_a_slice(http: httpx.Client, cached: bytes, data: st.DataObject) -> None:
    size = len(cached)
    first = data.draw(st.integers(0, size - 1))
    last = data.draw(st.integers(first, 2 * size))
    suffix = data.draw(st.integers(1, 2 * size))
    for text, start, end in (
        (f"bytes={first}-{last}", first, min(last + 1, size)),
        (f"bytes={first}-", first, size),
        (f"bytes=-{suffix}", max(0, size - suffix), size),
    ):
        answer = http.get(URL, headers={"Range": text})
        assert answer.status_code == 206
        assert answer.content == cached[start:end]
        assert answer.headers["Content-Range"] == f"bytes {start}-{end - 1}/{size}"


@pytest.mark.parametrize("text", ["bytes=0-1,3-4", "items=0-1", "bytes=-", "bytes=5-2", "bytes=a-b", "bytes"])
def test_what_is_no_single_range_gets_the_whole(http: httpx.Client, cached: bytes, text: str) -> None:
    answer = http.get(URL, headers={"Range": text})
    assert (answer.status_code, answer.content) == (200, cached)


@pytest.mark.parametrize("text", ["bytes={size}-", "bytes={size}-{size}", "bytes=-0", "bytes=999999999999999999-"])
def test_a_range_behind_the_end_is_refused(http: httpx.Client, cached: bytes, text: str) -> None:
    answer = http.get(URL, headers={"Range": text.format(size=len(cached))})
    assert answer.status_code == 416
    assert answer.headers["Content-Range"] == f"bytes */{len(cached)}"
    assert answer.headers["Content-Type"] == "application/problem+json"


def test_a_download_goes_on_only_with_the_same_bytes(http: httpx.Client, cached: bytes) -> None:
    etag = http.head(URL).headers["ETag"]
    part = {"Range": "bytes=0-9"}
    assert http.get(URL, headers=part | {"If-Range": etag}).status_code == 206
    assert http.get(URL, headers=part | {"If-Range": f"W/{etag}"}).content == cached
    assert http.get(URL, headers=part | {"If-Range": '"replaced"'}).content == cached
    assert http.head(URL, headers=part).status_code == 200, "ranges are for GET"


def test_many_askers_of_a_cold_spacing_make_one_order(
    gateway: Gateway, worker_present: None, redis: Redis, wanted: GenerationRequest, made: bytes, only_bells: None
) -> None:
    """All wait; the queue holds one message; when the network appears, all get the same bytes."""

    def ask(_: int) -> httpx.Response:
        return httpx.get(gateway.url + URL, timeout=30)

    with ThreadPoolExecutor(ASKERS) as askers:
        answers = askers.map(ask, range(ASKERS))
        poll(lambda: len(gateway.server.server_state.tasks) >= ASKERS)
        poll(lambda: redis.llen(WEIGHTS_QUEUE) == 1)
        (message,) = redis.lrange(WEIGHTS_QUEUE, 0, -1)
        WeightCache(redis).put(wanted, made)
        assert {(answer.status_code, answer.content) for answer in answers} == {(200, made)}
    assert redis.llen(WEIGHTS_QUEUE) == 1
    (arguments, _, _) = json.loads(base64.b64decode(json.loads(message)["body"]))
    assert GenerationRequest.model_validate_json(arguments[0]) == wanted


@pytest.mark.parametrize(("prefer", "applied"), [("wait=0", "wait=0"), ("respond-async", "respond-async")])
def test_who_does_not_wait_is_told_to_come_back(
    http: httpx.Client, worker: None, wanted: GenerationRequest, redis: Redis, prefer: str, applied: str
) -> None:
    answer = http.get(URL, headers={"Prefer": prefer})
    assert answer.status_code == 202
    assert answer.headers["Location"] == URL
    assert answer.headers["Retry-After"] == "1"
    assert answer.headers["Preference-Applied"] == applied
    poll(lambda: bool(redis.exists(weight_key(wanted))))
    assert http.get(answer.headers["Location"], headers={"Prefer": prefer}).status_code == 200


def test_the_wait_is_bounded(http: httpx.Client, worker_present: None) -> None:
    answer = http.get(URL, headers={"Prefer": "wait=1"})
    assert answer.status_code == 202
    assert answer.elapsed.total_seconds() >= 1


def test_a_lost_order_is_repeated_and_a_lost_message_does_not_matter(
    http: httpx.Client, worker_present: None, redis: Redis, wanted: GenerationRequest, made: bytes
) -> None:
    """The worker took the message and died: when the claim has ended, whoever still waits orders again."""
    with ThreadPoolExecutor(1) as asker:
        answer = asker.submit(http.get, URL)
        poll(lambda: redis.llen(WEIGHTS_QUEUE) == 1)
        redis.delete(WEIGHTS_QUEUE, f"{weight_key(wanted)}:generating")
        poll(lambda: redis.llen(WEIGHTS_QUEUE) == 1)
        redis.set(weight_key(wanted), hashlib.sha256(made).digest() + made)  # ready, and nobody rings
        assert answer.result().content == made


def test_a_failed_generation_is_told_to_those_who_wait(
    http: httpx.Client, worker_present: None, redis: Redis, wanted: GenerationRequest, only_bells: None
) -> None:
    with ThreadPoolExecutor(1) as asker:
        answer = asker.submit(http.get, URL)
        poll(lambda: redis.llen(WEIGHTS_QUEUE) == 1)
        WeightCache(redis).fail(wanted, problem_of(OutOfMemory("cuda:0 is full")).model_dump_json())
        assert answer.result().status_code == 500
        assert answer.result().json()["type"] == "urn:unet-factory:problem:out-of-memory"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the exporters warn of themselves
@pytest.mark.parametrize(("file_format", "suffix"), [("onnx", "onnx"), ("pt2", "pt2"), ("bundle", "zip")])
def test_other_formats_are_made_once_and_served_as_any_network(
    http: httpx.Client, worker: None, redis: Redis, wanted: GenerationRequest, file_format: NetworkFormat, suffix: str
) -> None:
    url = f"{URL}&format={file_format}"
    until = time.monotonic() + 110
    while (answer := http.get(url, headers={"Prefer": "wait=60"}, timeout=90)).status_code == 202:
        assert time.monotonic() < until
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Disposition"].endswith(f'.{suffix}"')
    assert answer.headers["ETag"] == f'"{hashlib.sha256(answer.content).hexdigest()}"'
    again = http.get(url, headers={"If-None-Match": answer.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    part = http.get(url, headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, answer.content[10:20])
    cache, request = WeightCache(redis), wanted.model_copy(update={"format": file_format})
    found = cache.get(request)
    assert found is not None
    assert found.blob == answer.content
    other = request.model_copy(update={"snapped_um": (1000, 500, 50)})  # its key is the beginning of the other's
    cache.put(other, found.blob)
    assert cache.get(other) is None, "a network under another's key is none"


def test_the_code_of_the_networks_is_served(http: httpx.Client) -> None:
    answer = http.get("/unet/plain_unet.py")
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "text/x-python; charset=utf-8")
    assert answer.content == (PROJECT / "unet_factory" / "model" / "plain_unet.py").read_bytes()
    assert "attachment" in answer.headers["Content-Disposition"]


def test_without_a_worker_nothing_is_ordered(http: httpx.Client, redis: Redis) -> None:
    answer = http.get(URL)
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) > 0
    assert redis.llen(WEIGHTS_QUEUE) == 0


def test_outside_the_trained_range_the_policy_decides(http: httpx.Client, worker: None) -> None:
    refused = http.get("/unet?spacing=9,1,1")
    assert refused.status_code == 422
    assert refused.json()["type"] == "urn:unet-factory:problem:spacing-out-of-range"
    assert refused.json()["trained_range_mm"] == [[0.5, 3.5]] * 3
    clamped = http.get("/unet?spacing=9,1,1&outside=clamp")
    assert clamped.headers["X-Snapped-Spacing"] == "3.5,1,1"
    assert clamped.headers["X-Outside-Policy"] == "clamp"
    assert clamped.content == http.get("/unet?spacing=3.5,1,1").content
    extrapolated = http.get("/unet?spacing=9,1,1&outside=extrapolate")
    assert extrapolated.headers["X-Snapped-Spacing"] == "9,1,1"
    assert extrapolated.headers["X-Out-Of-Range"] == "true"
    assert read_standalone_manifest(extrapolated.content).out_of_range


@pytest.mark.parametrize(
    ("query", "status", "slug", "said"),
    [
        ("", 400, "malformed-request", "spacing"),
        ("spacing=", 422, "spacing-invalid", "three"),
        ("spacing=1,1", 422, "spacing-invalid", "three"),
        ("spacing=1,1,1,1", 422, "spacing-invalid", "three"),
        ("spacing=1,1,x", 422, "spacing-invalid", "1,0.5,0.5"),
        ("spacing=1,1,nan", 422, "spacing-invalid", "finite"),
        ("spacing=1,1,inf", 422, "spacing-invalid", "finite"),
        ("spacing=1,1,0", 422, "spacing-invalid", "above 0"),
        ("spacing=1,1,-1", 422, "spacing-invalid", "above 0"),
        ("spacing=1,1,1&model=none", 404, "unknown-model", "tiny"),
        ("spacing=1,1,1&format=pickle", 400, "malformed-request", "safetensors"),
        ("spacing=1,1,1&dtype=int8", 400, "malformed-request", "float16"),
        ("spacing=1,1,1&outside=guess", 400, "malformed-request", "reject"),
        ("spacing=1,1,1&spaceing=2", 400, "malformed-request", "spaceing"),
    ],
)
def test_a_bad_question_is_answered_with_what_is_allowed(
    http: httpx.Client, query: str, status: int, slug: str, said: str
) -> None:
    answer = http.get(f"/unet?{query}")
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert (answer.status_code, answer.json()["type"]) == (status, f"urn:unet-factory:problem:{slug}")
    assert answer.json()["status"] == status
    assert said in answer.json()["detail"]


def _without_date(answer: httpx.Response) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if name not in ("date", "x-request-id")}
