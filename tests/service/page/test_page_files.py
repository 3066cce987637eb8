"""The page's files as a browser gets them: complete, from here alone, and kept until a release replaces them."""

import re

import httpx
import pytest

from unet_factory_service.page.assets import load_assets

MAX_BYTES = 5_000_000
ON_DEMAND = ("vendor/swagger-ui/", "vendor/redoc/", "vendor/onnxruntime-web/")
LINK = re.compile(r'(?:href|src)="([^"#][^"]*)"')
IMPORT = re.compile(r'(?:from|import\()\s*"(\.[^"]+)"')


def links(page: httpx.Response) -> list[str]:
    return LINK.findall(page.text)


def test_the_page_and_all_that_it_names_come_from_the_gateway(http: httpx.Client) -> None:
    page = http.get("/")
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    assets = [f"/{link}" for link in links(page) if link.startswith("assets/")]
    assert len(assets) >= 3
    seen = set[str]()
    while assets:
        url = httpx.URL(assets.pop())
        answer = http.get(url)
        assert answer.status_code == 200, url
        assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
        assert http.get(url, headers={"If-None-Match": answer.headers["ETag"]}).status_code == 304
        seen.add(url.path)
        if "/app/" in url.path:
            assets += [
                str(url.join(found)) for found in IMPORT.findall(answer.text) if url.join(found).path not in seen
            ]
    assert any(path.endswith("/niivue/index.js") for path in seen)
    assert not any(path.partition("/vendor/")[2].startswith("onnxruntime-web") for path in seen)


def test_threads_may_share_memory(http: httpx.Client) -> None:
    for path in ("/", f"/assets/{load_assets().digest}/app/local-worker.js"):
        assert http.get(path).headers["Cross-Origin-Embedder-Policy"] == "require-corp"
    assert http.get("/").headers["Cross-Origin-Opener-Policy"] == "same-origin"


@pytest.mark.parametrize("path", ["/", "/docs", "/redoc"])
def test_nothing_inline_and_nothing_from_elsewhere(http: httpx.Client, path: str) -> None:
    page = http.get(path)
    assert not re.search(r"<script(?![^>]*\bsrc=)|\sstyle=|\son\w+=|https?://", page.text)
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "*" not in policy


def test_the_page_is_asked_for_again_and_answered_only_if_it_changed(http: httpx.Client) -> None:
    page = http.get("/")
    assert page.headers["Cache-Control"] == "no-cache"
    assert http.get("/", headers={"If-None-Match": page.headers["ETag"]}).status_code == 304


@pytest.mark.parametrize(
    "path", ["/assets/0123456789abcdef/page.css", "/assets/{}/app/nothing.js", "/assets/{}/../routes.py"]
)
def test_other_files_and_other_releases_are_not_there(http: httpx.Client, path: str) -> None:
    missing = http.get(path.format(load_assets().digest))
    assert missing.status_code == 404
    assert missing.headers["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize("path", ["/", "/docs", "/redoc"])
def test_behind_a_proxy_a_page_finds_its_files_under_the_prefix(http: httpx.Client, path: str) -> None:
    behind = {"X-Forwarded-Prefix": "/factory"}
    page = http.get(path, headers=behind)
    seen_at = httpx.URL(f"https://scans.example/factory{path}")
    for link in links(page):
        found = seen_at.join(link).path
        assert found.startswith("/factory/")
        assert http.get(found.removeprefix("/factory"), headers=behind).status_code == 200, link


def test_only_workers_may_run_webassembly(http: httpx.Client) -> None:
    allowed = [
        path
        for path in load_assets().by_path
        if "wasm-unsafe-eval"
        in http.get(f"/assets/{load_assets().digest}/{path}").headers.get("Content-Security-Policy", "")
    ]
    assert sorted(allowed) == [
        "app/local-worker.js",
        "vendor/dcm2niix/worker.jpeg.js",
        "vendor/onnxruntime-web/ort.wasm.bundle.min.js",
    ]


def test_the_files_of_other_projects_are_small_and_licensed() -> None:
    by_path = load_assets().by_path
    of_the_page = [asset for path, asset in by_path.items() if not path.startswith(ON_DEMAND)]
    assert sum(len(asset.read()) for asset in of_the_page) < MAX_BYTES
    projects = {path.split("/")[1] for path in by_path if path.startswith("vendor/")}
    assert projects
    assert all(f"vendor/{project}/LICENSE" in by_path for project in projects)
