"""Representations under a strong ETag: ``If-None-Match``, ``Range`` and ``If-Range`` (RFC 9110 sections 13 and 14)."""

import base64
import re
from collections.abc import AsyncIterator, Mapping

from fastapi import HTTPException, Request, Response
from fastapi.responses import StreamingResponse

_ETAG = re.compile(r'(?:W/)?("[^"]*")')
_BYTE_RANGE = re.compile(r"bytes\s*=\s*(\d{0,18})\s*-\s*(\d{0,18})")
_PIECE_BYTES = 2**19


def conditional_response(
    request: Request, body: bytes, *, sha256: str, headers: Mapping[str, str], media_type: str
) -> Response:
    """200, 206 or 304 for a representation of known digest (hexadecimal).

    Raises:
        HTTPException: 416, the range begins behind the end.
    """
    answer = response_without_content(request, sha256=sha256, size=len(body), headers=headers, media_type=media_type)
    if answer is not None:
        return answer
    common = _headers(headers, sha256)
    part = _wanted_range(request, common["ETag"], len(body))
    if part is None:
        return _in_pieces(memoryview(body), 200, common, media_type)
    content_range = {"Content-Range": f"bytes {part.start}-{part.stop - 1}/{len(body)}"}
    return _in_pieces(memoryview(body)[part.start : part.stop], 206, common | content_range, media_type)


def response_without_content(
    request: Request, *, sha256: str, size: int, headers: Mapping[str, str], media_type: str
) -> Response | None:
    """The answer to a HEAD, or 304, for which the content need not be known; None: the content is wanted."""
    common = _headers(headers, sha256)
    if _is_known(request, common["ETag"]):
        return Response(status_code=304, headers=common)
    if _is_head(request):
        return Response(headers=common | {"Content-Length": str(size)}, media_type=media_type)
    return None


def may_need_no_content(request: Request) -> bool:
    """Whether :func:`response_without_content` can be the answer."""
    return _is_head(request) or "If-None-Match" in request.headers


def _is_head(request: Request) -> bool:
    return getattr(request.state, "without_content", False)


def _in_pieces(content: memoryview, status: int, headers: Mapping[str, str], media_type: str) -> Response:
    """One piece after the other as the client takes them: given whole, each slow client would cost a copy."""

    async def pieces() -> AsyncIterator[memoryview]:
        for start in range(0, len(content), _PIECE_BYTES):
            yield content[start : start + _PIECE_BYTES]

    sized = {**headers, "Content-Length": str(len(content))}
    return StreamingResponse(pieces(), status, headers=sized, media_type=media_type)


def _headers(own: Mapping[str, str], sha256: str) -> dict[str, str]:
    digest = base64.b64encode(bytes.fromhex(sha256)).decode()
    return {
        **own,
        "ETag": f'"{sha256}"',
        "Accept-Ranges": "bytes",
        "Digest": f"sha-256={digest}",
        "Repr-Digest": f"sha-256=:{digest}:",
    }


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
