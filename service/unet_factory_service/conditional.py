"""Representations under a strong ETag: ``If-None-Match``, ``Range`` and ``If-Range`` (RFC 9110 sections 13 and 14)."""

import base64
import re
from collections.abc import Mapping

from fastapi import HTTPException, Request, Response

_ETAG = re.compile(r'(?:W/)?("[^"]*")')
_BYTE_RANGE = re.compile(r"bytes\s*=\s*(\d{0,18})\s*-\s*(\d{0,18})")


def conditional_response(
    request: Request, body: bytes, *, sha256: str, headers: Mapping[str, str], media_type: str
) -> Response:
    """200, 206 or 304 for a representation of known digest (hexadecimal).

    Raises:
        HTTPException: 416, the range begins behind the end.
    """
    etag = f'"{sha256}"'
    digest = base64.b64encode(bytes.fromhex(sha256)).decode()
    common = {
        **headers,
        "ETag": etag,
        "Accept-Ranges": "bytes",
        "Digest": f"sha-256={digest}",
        "Repr-Digest": f"sha-256=:{digest}:",
    }
    if _is_known(request, etag):
        return Response(status_code=304, headers=common)
    part = _wanted_range(request, etag, len(body))
    if part is None:
        return Response(body, headers=common, media_type=media_type)
    content_range = {"Content-Range": f"bytes {part.start}-{part.stop - 1}/{len(body)}"}
    return Response(body[part.start : part.stop], 206, headers=common | content_range, media_type=media_type)


def _is_known(request: Request, etag: str) -> bool:
    given = ",".join(request.headers.getlist("If-None-Match"))
    return given.strip() == "*" or etag in _ETAG.findall(given)


def _wanted_range(request: Request, etag: str, size: int) -> range | None:
    """The one range asked for, cut to the size; None (the whole) for several, or for what is no byte range."""
    found = _BYTE_RANGE.fullmatch(request.headers.get("Range", "").strip())
    if found is None or request.headers.get("If-Range", etag) != etag:
        return None
    first, last = found.groups()
    if (not first and not last) or (first and last and int(last) < int(first)):
        return None
    start = int(first) if first else max(0, size - int(last))
    stop = min(size, int(last) + 1) if first and last else size
    if start >= size:
        raise HTTPException(
            416, f"the range begins at byte {start} of {size}", headers={"Content-Range": f"bytes */{size}"}
        )
    return range(start, stop)
