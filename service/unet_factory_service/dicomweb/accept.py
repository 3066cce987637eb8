"""Content negotiation of DICOMweb (PS3.18 section 8.7): the media types that are served, and nothing else quietly."""

from fastapi import HTTPException, Request

DICOM_JSON = "application/dicom+json"
DICOM = "application/dicom"
MULTIPART = "multipart/related"


def check_accepts(request: Request, *offered: str) -> str:
    """The first of the caller's media types that is offered; the first offered where the caller leaves it open.

    Raises:
        HTTPException: 406, none of them is.
    """
    wanted = [part.strip() for part in ",".join(request.headers.getlist("Accept")).split(",") if part.strip()]
    wanted += [part.strip() for part in request.query_params.getlist("accept")]
    for entry in wanted or ["*/*"]:
        kind = entry.split(";")[0].strip().lower()
        for offer in offered:
            if kind in (offer, "*/*", offer.split("/")[0] + "/*"):
                return offer
    raise HTTPException(406, f"this is served as {' or '.join(offered)}")
