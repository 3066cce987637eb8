"""``GET /`` and the assets of the pages: public, as they hold no data; what they ask the API for needs a key."""

import hashlib

from fastapi import APIRouter, HTTPException, Request, Response

from unet_factory_service.conditional import conditional_response
from unet_factory_service.page.assets import Asset, load_assets

router = APIRouter(include_in_schema=False)

# Scripts, styles and requests from this gateway alone; nothing inline, nothing evaluated. NiiVue's fonts and shading
# textures are data: images.
_PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "worker-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# Redoc makes its styles at run time: two elements, an empty one and one with a fixed rule, known by their hashes.
_REDOC_POLICY = _PAGE_POLICY.replace(
    "style-src 'self'",
    "style-src 'self' 'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='"
    " 'sha256-QMIg+bpjm3JdElJ388KYke01izlUW0UoNOeKjpMxdgc='",
)
# A worker obeys the policy of its own script. One reads DICOM, the others run networks: all compiled to WebAssembly.
_WORKER_POLICY = "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; connect-src 'self'; worker-src 'self'"
_WORKERS = (
    "vendor/dcm2niix/worker.jpeg.js",
    "app/local-worker.js",
    "vendor/onnxruntime-web/ort.wasm.bundle.min.js",  # the threads that it starts
)

_SECURITY = {
    "Cross-Origin-Embedder-Policy": "require-corp",  # with the opener's policy: memory that threads may share
}
_DOCUMENT = _SECURITY | {
    "Cache-Control": "no-cache",
    "Cross-Origin-Opener-Policy": "same-origin",
}


@router.get("/")
def page(request: Request) -> Response:
    return _document(request, "index.html")


@router.get("/docs")
def docs(request: Request) -> Response:
    """The API, to try out."""
    return _document(request, "docs.html")


@router.get("/redoc")
def redoc(request: Request) -> Response:
    """The API, to read."""
    return _document(request, "redoc.html", _REDOC_POLICY)


@router.get("/assets/{digest}/{path:path}")
def asset(request: Request, digest: str, path: str) -> Response:
    """Of this release alone: another one's files are gone."""
    assets = load_assets()
    found = assets.by_path.get(path)
    if found is None or digest != assets.digest:
        raise HTTPException(404, "the page has no such file; load the page again")
    headers = _SECURITY | {"Cache-Control": "public, max-age=31536000, immutable"}
    if path in _WORKERS:
        headers["Content-Security-Policy"] = _WORKER_POLICY
    return _answer(request, found, found.read(), headers)


def _document(request: Request, name: str, policy: str = _PAGE_POLICY) -> Response:
    """An HTML page. It names its assets relative to itself, so it works under whatever prefix a proxy gives it."""
    assets = load_assets()
    found = assets.by_path[name]
    body = found.read().replace(b"{{assets}}", f"assets/{assets.digest}".encode())
    return _answer(request, found, body, _DOCUMENT | {"Content-Security-Policy": policy})


def _answer(request: Request, asset: Asset, body: bytes, headers: dict[str, str]) -> Response:
    sha256 = hashlib.sha256(body).hexdigest()
    return conditional_response(request, body, sha256=sha256, headers=headers, media_type=asset.media_type)
