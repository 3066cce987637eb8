"""The gateway behind a reverse proxy: links lead back through it, and early refusals reach the caller."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urljoin

import httpx
import pytest
from redis import Redis

from tests.fixtures.settings import FactorySettings
from tests.service.conftest import Gateway, RunGateway
from tests.service.keyed import keyed_gateway, small_scan
from unet_factory.platform.api_keys import Scope

BODY = os.urandom(8 * 2**20)
TRIES = 8
NGINX = """
daemon off; user root; pid ROOM/nginx.pid; error_log ROOM/error.log; worker_processes 1;
events { worker_connections 64; }
http {
  access_log off; client_max_body_size 0; client_body_temp_path ROOM/body; proxy_temp_path ROOM/proxy;
  fastcgi_temp_path ROOM/f; uwsgi_temp_path ROOM/u; scgi_temp_path ROOM/s;
  server {
    listen 127.0.0.1:PORT;
    location / { proxy_pass GATEWAY; }
    location /stream/ { proxy_pass GATEWAY/; proxy_request_buffering off; }
    location /factory/ { proxy_pass GATEWAY/; proxy_set_header X-Forwarded-Prefix /factory; }
  }
}
"""


@pytest.fixture
def scan(tmp_path: Path) -> bytes:
    return small_scan(tmp_path).read_bytes()


def proxy_of(url: str, room: Path) -> Iterator[str]:
    nginx = shutil.which("nginx")
    if nginx is None:
        pytest.skip("nginx is not installed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for folder in ("body", "proxy", "f", "u", "s"):
        (room / folder).mkdir()
    (room / "nginx.conf").write_text(
        NGINX.replace("ROOM", str(room)).replace("PORT", str(port)).replace("GATEWAY", url)
    )
    room.chmod(0o755)
    process = subprocess.Popen([nginx, "-e", str(room / "error.log"), "-c", str(room / "nginx.conf")])
    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            break
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture
def proxy(gateway: Gateway, tmp_path: Path) -> Iterator[str]:
    yield from proxy_of(gateway.url, tmp_path)


def refusals(url: str, **options: str) -> set[int]:
    """The statuses of several uploads of a large body."""
    found = set()
    for _ in range(TRIES):
        answer = httpx.post(url, files={"file": ("scan", BODY)}, headers=options, timeout=30, trust_env=False)
        assert answer.headers["Content-Type"] == "application/problem+json", answer.text
        found.add(answer.status_code)
    return found


@pytest.mark.parametrize("prefix", ["", "/stream"])
@pytest.mark.parametrize(
    ("path", "accept", "status"),
    [
        ("/segmentations?model=x", "*/*", 400),
        ("/segmentations", "*/*", 413),
        ("/dicomweb/studies", "text/html", 406),
        ("/dicomweb/studies", "*/*", 415),
        ("/segmentations/nothing", "*/*", 405),
    ],
)
def test_a_refusal_before_the_body_was_read_reaches_the_caller(
    proxy: str, gateway: Gateway, prefix: str, path: str, accept: str, status: int
) -> None:
    assert refusals(f"{proxy}{prefix}{path}", Accept=accept) == {status}
    assert refusals(f"{gateway.url}{path}", Accept=accept) == {status}


@pytest.mark.parametrize(
    ("scopes", "limits", "status"),
    [
        (None, {}, 401),
        ([Scope.READ], {}, 403),
        ([Scope.SEGMENT], {"requests_per_minute": 1}, 429),
        ([Scope.SEGMENT], {"jobs_in_flight": 1}, 429),
    ],
)
def test_a_refusal_by_key_reaches_the_caller(
    settings: FactorySettings,
    redis: Redis,
    tmp_path: Path,
    scan: bytes,
    scopes: list[Scope] | None,
    limits: dict[str, int],
    status: int,
) -> None:
    with keyed_gateway(settings, redis) as keyed:
        headers = {}
        if scopes:
            asker = keyed.asker(*scopes, **limits)
            headers["X-API-Key"] = asker.token
        if limits:
            assert asker.ask("POST", "/segmentations", files={"file": ("scan", scan)}).status_code == 202
        for proxy in proxy_of(keyed.gateway.url, tmp_path):
            assert refusals(f"{proxy}/segmentations", **headers) == {status}


def test_links_lead_back_through_a_proxy(proxy: str, scan: bytes) -> None:
    answer = httpx.post(f"{proxy}/factory/segmentations", files={"file": ("scan", scan)}, trust_env=False)
    location = urljoin(str(answer.url), answer.headers["Location"])
    assert location.startswith(f"{proxy}/factory/segmentations/")
    assert httpx.get(location, trust_env=False).json()["id"] == location.rsplit("/", 1)[1]
    document = httpx.get(f"{proxy}/factory/openapi.json", trust_env=False).json()
    assert document["servers"] == [{"url": "/factory"}]
    assert "servers" not in httpx.get(f"{proxy}/openapi.json", trust_env=False).json()


def test_links_follow_the_setting(settings: FactorySettings, run_gateway: RunGateway, scan: bytes) -> None:
    public = "https://scans.hospital.example/factory"
    with run_gateway(settings.model_copy(update={"public_url": public})) as gateway:
        answer = gateway.http.post("/segmentations", files={"file": ("scan", scan)})
        assert answer.headers["Location"].startswith(f"{public}/segmentations/")
        assert gateway.http.get("/openapi.json").json()["servers"] == [{"url": public}]


@pytest.mark.parametrize(
    ("headers", "location"),
    [
        ({"X-Forwarded-Prefix": "/a/b/"}, "/a/b/segmentations/"),
        ({"X-Forwarded-Prefix": "//evil.example"}, "/segmentations/"),
        ({"X-Forwarded-Prefix": "/a b"}, "/segmentations/"),
        (
            {"Forwarded": "for=192.0.2.1;proto=https;host=scans.example", "X-Forwarded-Prefix": "/x"},
            "/x/segmentations/",
        ),
    ],
)
def test_a_prefix_is_a_path_and_nothing_else(
    http: httpx.Client, scan: bytes, headers: dict[str, str], location: str
) -> None:
    answer = http.post("/segmentations", files={"file": ("scan", scan)}, headers=headers)
    assert answer.headers["Location"].startswith(location)


def test_only_trusted_proxies_are_believed(settings: FactorySettings, run_gateway: RunGateway, scan: bytes) -> None:
    with run_gateway(settings.model_copy(update={"trusted_proxies": "192.0.2.0/24"})) as gateway:
        headers = {"X-Forwarded-Prefix": "/factory"}
        answer = gateway.http.post("/segmentations", files={"file": ("scan", scan)}, headers=headers)
        assert answer.headers["Location"].startswith("/segmentations/")


def test_a_body_that_stalls_is_given_up(settings: FactorySettings, run_gateway: RunGateway) -> None:
    with run_gateway(settings.model_copy(update={"stalled_after_s": 0.5})) as gateway:
        host, port = gateway.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), 20) as peer:
            peer.sendall(
                b"POST /segmentations HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n"
                b"Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n"
            )
            answer = b""
            while piece := peer.recv(4096):
                answer += piece
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"application/problem+json" in answer


def test_a_request_with_two_lengths_ends_its_connection(gateway: Gateway) -> None:
    host, port = gateway.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), 20) as peer:
        peer.sendall(
            b"POST /quote HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
            b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
        )
        answer = b""
        while piece := peer.recv(4096):
            answer += piece
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"connection: close" in answer.lower()


def test_a_target_in_absolute_form_is_its_path_under_that_host(gateway: Gateway, scan: bytes) -> None:
    """As clients ask that take the gateway for their proxy."""
    with httpx.Client(proxy=gateway.url, trust_env=False) as client:
        model = client.get("http://factory:81/models/tiny?x=%2F", headers={"Host": "elsewhere.example"})
        assert (model.status_code, model.json()["name"]) == (200, "tiny")
        answer = client.post("HTTP://localhost/segmentations", files={"file": ("scan", scan)})
        assert answer.status_code == 202
        assert client.get(urljoin("http://localhost", answer.headers["Location"])).json()["state"] == "queued"
        assert client.get("http://factory").status_code == httpx.get(gateway.url, trust_env=False).status_code
        foreign = client.get("http://elsewhere.example/models", headers={"Host": "localhost"})
        assert foreign.status_code == 421, "the target's host counts"
