"""DICOM uploads: however they come, what is stored is one zip archive that holds one series."""

import hashlib
from pathlib import Path

from fastapi import Request
from starlette.concurrency import run_in_threadpool

from unet_factory.domain.errors import MalformedRequest
from unet_factory.domain.segmentation_parameters import NEVER_IN_A_URL, PARAMETERS
from unet_factory.volume import VolumeLimits, sniff_format
from unet_factory_service.segmentations.dicom_parts import MEDIA_TYPE, receive_dicom_parts
from unet_factory_service.segmentations.upload import CheckRoom, ReceivedForm, ReceivedScan

QUERY_FIELDS = tuple(name for name in PARAMETERS if name not in NEVER_IN_A_URL)

_ZIP_MAGIC = b"PK"


def is_dicom_body(request: Request) -> bool:
    """Whether the body says that it is DICOM objects and not a form."""
    return request.headers.get("Content-Type", "").partition(";")[0].strip().lower() == MEDIA_TYPE


async def receive_dicom_body(request: Request, folder: Path, max_bytes: int, check_room: CheckRoom) -> ReceivedForm:
    """The objects of a ``multipart/related`` body as one zip archive; the fields come from the URL's query.

    Raises:
        MalformedRequest: a damaged body, or a parameter in the URL that must not be there.
        NotAVolume, VolumeTooLarge, StorageFull: as ``receive_dicom_parts``.
    """
    fields = _query_fields(request)
    parts = await receive_dicom_parts(request, folder, max_bytes, check_room)
    return ReceivedForm(fields, await run_in_threadpool(_packed, parts, folder / "upload"))


def as_one_series(scan: ReceivedScan, series_uid: str | None, limits: VolumeLimits) -> ReceivedScan:
    """A DICOM upload as an archive of just the series that ``series_uid`` names; a bare DICOM file as an archive too.

    Raises:
        MalformedRequest: a series is named, but the upload is not DICOM.
        NotAVolume, VolumeTooLarge, SeriesMixed, SlicesInconsistent: as ``unet_factory.volume.dicom.read_series``.
    """
    is_dicom = sniff_format(scan.file, limits) == "dicom"
    if series_uid is not None and not is_dicom:
        raise MalformedRequest("series_uid chooses among DICOM series, but the file is not DICOM; leave it out")
    if not is_dicom or (series_uid is None and _is_zip(scan.file)):
        return scan
    from unet_factory.volume.dicom import extract_series

    target = scan.file.with_name("series")
    extract_series(scan.file, target, series_uid, limits)
    sha256 = hashlib.sha256(f"{scan.sha256} {series_uid or ''}".encode()).hexdigest()
    return ReceivedScan(target, sha256)


def _query_fields(request: Request) -> dict[str, str]:
    given = [name for name, _ in request.query_params.multi_items()]
    if set(given) - set(QUERY_FIELDS) or len(set(given)) != len(given):
        raise MalformedRequest(
            f"with a multipart/related body, the URL may have only {', '.join(QUERY_FIELDS)}, each at most once",
            allowed=list(QUERY_FIELDS),
        )
    return dict(request.query_params)


def _packed(parts: list[Path], target: Path) -> ReceivedScan:
    from unet_factory.volume.dicom import pack_series

    pack_series(parts, target)
    for part in parts:
        part.unlink()
    with target.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    return ReceivedScan(target, digest.hexdigest())


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_ZIP_MAGIC)) == _ZIP_MAGIC
