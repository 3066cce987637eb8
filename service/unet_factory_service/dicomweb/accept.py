"""Content negotiation of DICOMweb (PS3.18 section 8.7): the media types that are served, and nothing else quietly."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from fastapi import HTTPException, Request
from pydicom.uid import ExplicitVRLittleEndian
from python_multipart.multipart import parse_options_header

DICOM_JSON = "application/dicom+json"
DICOM = "application/dicom"
MULTIPART = "multipart/related"
OCTETS = "application/octet-stream"

_ENTRY = re.compile(r'(?:[^,"]|"(?:\\.|[^"\\])*")+')  # commas within quotes do not separate
_PLUS = re.compile(r"(?<=\w) (?=\w)")  # a plus sign that a URL's reader took for a space
_SERVED_SYNTAX = ("*", str(ExplicitVRLittleEndian))  # all results are written in it, and nothing is transcoded


class _Entry(NamedTuple):
    """One media type of an Accept header, with the parameters that DICOMweb knows."""

    kind: str
    part_type: str
    transfer_syntax: str
    quality: float

    def takes(self, offer: str, part_type: str) -> bool:
        of_kind = self.kind in (offer, "*/*", offer.split("/")[0] + "/*")
        of_parts = offer != MULTIPART or self.part_type in ("", part_type, "*/*", "application/*")
        return of_kind and of_parts and self.transfer_syntax in ("", *_SERVED_SYNTAX)


def check_accepts(request: Request, *offered: str, part_type: str = DICOM) -> str:
    """The offered media type that the caller likes best; the first offered where the caller leaves it open.

    Parts of a multipart answer are of ``part_type``. A query parameter ``accept`` takes the place of the header (PS3.18
    section 8.3.3.1).

    Raises:
        HTTPException: 406, none of them, or not in the transfer syntax that is asked for.
    """
    given = [_PLUS.sub("+", value) for value in request.query_params.getlist("accept")]
    entries = list(_entries(",".join(given or request.headers.getlist("Accept")) or "*/*"))
    for entry in sorted(entries, key=lambda entry: -entry.quality):
        for offer in offered:
            if entry.quality > 0 and entry.takes(offer, part_type):
                return offer
    syntax = f" in transfer syntax {ExplicitVRLittleEndian}" if MULTIPART in offered else ""
    raise HTTPException(406, f"this is available as {' or '.join(offered)}{syntax}; accept one of these")


def _entries(header: str) -> Iterator[_Entry]:
    for text in _ENTRY.findall(header):
        kind, options = parse_options_header(text.strip())
        said = {name.lower(): value.decode("latin-1").strip().lower() for name, value in options.items()}
        yield _Entry(
            kind.decode("latin-1").strip().lower(),
            said.get(b"type", ""),
            said.get(b"transfer-syntax", ""),
            _quality(said.get(b"q", "1")),
        )


def _quality(text: str) -> float:
    """As in RFC 9110 section 12.4.2; an invalid value counts as 1."""
    return float(text) if re.fullmatch(r"[01](\.[0-9]{0,3})?", text) else 1.0
