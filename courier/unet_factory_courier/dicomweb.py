"""An archive over DICOMweb (DICOM PS3.18): results are stored by STOW-RS, series fetched by WADO-RS."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
from dicomweb_client import DICOMwebClient
from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError

from unet_factory.destinations import DicomWeb
from unet_factory.domain.errors import SeriesNotFound, VolumeTooLarge
from unet_factory.domain.jobs import PacsSeries
from unet_factory.platform.tracing import trace_headers
from unet_factory_courier.deadline import NotingAdapter, deadline
from unet_factory_courier.outcomes import GiveUp, TryAgain, check_status

_WHOLE = 2**40  # one piece: not every archive takes a chunked request
_CHUNK = 2**20
_DUPLICATE = 0x0111
_PASSING = (0x0110,)  # processing failure (PS3.18 table I.2-2)
_OUT_OF_RESOURCES = range(0xA700, 0xA800)
_CONFLICT = 409
_ACCEPTED = 202
_NOT_FOUND = (204, 404)


def store(archive: DicomWeb, files: Sequence[Path]) -> None:
    """Store instances, all in one request. Storing them again is harmless: their UIDs stay the same.

    Raises:
        TryAgain: the archive cannot be reached, or could not take some of them now.
        GiveUp: it refuses one for good.
    """
    answers: list[requests.Response] = []
    with client_of(archive, _WHOLE, answers.append) as client, failures(_stored_or_judged):
        client.store_instances([dcmread(file) for file in files])
    if not answers:
        raise TryAgain("the archive did not answer")
    _judge(answers[-1])


def fetch(archive: DicomWeb, series: PacsSeries, folder: Path, max_bytes: int) -> list[Path]:
    """Retrieve a whole series into ``folder``, one file an instance, as the archive stores them (no transcoding).

    Raises:
        TryAgain: the archive cannot be reached.
        GiveUp: it has no such series, or refuses; the series has more than ``max_bytes``.
    """
    with client_of(archive, _CHUNK) as client, failures(_check_fetch):
        instances = client.iter_series(series.study_uid, series.series_uid, media_types=(("application/dicom", "*"),))
        files = list(_written(instances, series, folder, max_bytes))
    if not files:
        raise _not_found()
    return files


def announced_instances(archive: DicomWeb, series: PacsSeries) -> int:
    """Number of Series Related Instances (0020,1209) of this very series; 0 where the archive does not tell.

    It may count what it does not hand out, such as rejected instances (PS3.18 10.6.3.3 leaves it to the archive), and
    it may answer with other series too.

    Raises:
        TryAgain: the archive cannot be reached.
    """
    filters = {"SeriesInstanceUID": series.series_uid}
    with client_of(archive, _CHUNK) as client, failures(_count_unknown):
        found = client.search_for_series(series.study_uid, fields=["00201209"], search_filters=filters)
        return max((_count(entry) for entry in found if _uid(entry) in (None, series.series_uid)), default=0)
    return 0


def _written(instances: Iterator[Dataset], series: PacsSeries, folder: Path, max_bytes: int) -> Iterator[Path]:
    seen: set[str] = set()
    total = 0
    for instance in instances:
        if instance.get("SeriesInstanceUID") != series.series_uid:
            raise GiveUp("the archive sent a different series")
        uid = str(instance.get("SOPInstanceUID"))
        if uid in seen:
            continue
        seen.add(uid)
        file = folder / f"{len(seen):06d}.dcm"  # a neutral name
        instance.save_as(file, enforce_file_format=True)
        total += file.stat().st_size
        if total > max_bytes:
            reason = f"the series has more than {max_bytes} bytes"
            raise GiveUp(reason, VolumeTooLarge(f"{reason}, which are allowed", allowed=max_bytes))
        yield file


def _uid(entry: dict[str, Any]) -> Any:
    return next(iter(entry.get("0020000E", {}).get("Value", [])), None)


def _count(entry: dict[str, Any]) -> int:
    try:
        return int(entry["00201209"]["Value"][0])
    except (KeyError, IndexError, ValueError, TypeError):
        return 0


def _count_unknown(_answer: requests.Response) -> None:
    """An archive need not answer how many there are."""


def _check_fetch(answer: requests.Response) -> None:
    if answer.status_code in _NOT_FOUND:
        raise _not_found()
    check_status(answer.status_code, answer.headers.get("Retry-After"))


def _not_found() -> GiveUp:
    reason = "the archive has no such series in that study"
    return GiveUp(reason, SeriesNotFound(reason))


def _stored_or_judged(_answer: requests.Response) -> None:
    """The outcome of a store request, read once from the body of its answer."""


def _judge(answer: requests.Response) -> None:
    reasons = [reason for reason in _failure_reasons(answer) if reason != _DUPLICATE]
    if any(reason is None or reason in _PASSING or reason in _OUT_OF_RESOURCES for reason in reasons):
        raise TryAgain(f"the archive could not store {len(reasons)} instances: {_codes(reasons)}")
    if reasons:
        raise GiveUp(f"the archive refused {len(reasons)} instances: {_codes(reasons)}")
    explained = _body(answer) is not None
    if answer.status_code in (_ACCEPTED, _CONFLICT) and explained:
        return  # whatever it did not store, it has already
    if answer.status_code == _ACCEPTED:
        raise TryAgain("the archive does not say which instances it could not store")
    check_status(answer.status_code, answer.headers.get("Retry-After"))


def _failure_reasons(answer: requests.Response) -> list[int | None]:
    """Failure Reason (0008,1197) of each item in the Failed SOP Sequence (0008,1198)."""
    body = _body(answer)
    if body is None:
        return []
    items = body.get("00081198", {}).get("Value", [])
    return [next(iter(item.get("00081197", {}).get("Value", [])), None) for item in items]


def _body(answer: requests.Response) -> dict[str, Any] | None:
    """A store's answer as DICOM JSON; None when it is something else."""
    try:
        body = answer.json()
    except ValueError:
        return None
    if isinstance(body, list) and len(body) == 1:
        body = body[0]
    return body if isinstance(body, dict) and {"00081198", "00081199"} & body.keys() else None


def _codes(reasons: list[int | None]) -> str:
    return ", ".join(sorted({"no reason given" if reason is None else f"0x{reason:04X}" for reason in reasons}))


@contextmanager
def client_of(
    archive: DicomWeb, chunk_bytes: int, on_answer: Callable[[requests.Response], None] = lambda _: None
) -> Iterator[DICOMwebClient]:
    """For one attempt, which ``deadline_s`` bounds. A redirect is refused: it would get the credentials.

    It does not retry: waiting is for the deliveries.

    Raises:
        TryAgain: the attempt took too long.
    """
    with deadline(archive.deadline_s) as note, requests.Session() as session:
        for scheme in ("http://", "https://"):
            session.mount(scheme, NotingAdapter(note))
        session.trust_env = False
        session.max_redirects = 0
        session.verify = True if archive.ca_file is None else str(archive.ca_file)
        headers = {"Accept": "application/dicom+json"} | trace_headers()
        if archive.auth and archive.auth.basic:
            session.auth = (archive.auth.basic.username, archive.auth.basic.password.read())
        if archive.auth and archive.auth.bearer:
            headers["Authorization"] = f"Bearer {archive.auth.bearer.read()}"
        client = DICOMwebClient(
            archive.url.rstrip("/"),
            session,
            qido_url_prefix=archive.qido_prefix,
            wado_url_prefix=archive.wado_prefix,
            stow_url_prefix=archive.stow_prefix,
            headers=headers,
            callback=lambda answer, *_, **__: on_answer(answer),
            chunk_size=chunk_bytes,
            timeout=archive.timeout_s,
        )
        client.set_http_retry_params(retry=False)
        yield client


@contextmanager
def failures(judge: Callable[[requests.Response], None]) -> Iterator[None]:
    """What the libraries raise, as what it means; their messages may quote UIDs and URLs, so only types are told."""
    try:
        yield
    except requests.HTTPError as error:
        if error.response is not None:
            judge(error.response)
    except requests.TooManyRedirects:
        raise GiveUp("the archive answered with a redirect, which is not followed") from None
    except requests.RequestException as error:
        raise TryAgain(f"the archive cannot be reached: {type(error).__name__}") from None
    except (InvalidDicomError, EOFError) as error:
        raise TryAgain(f"the archive's answer is damaged: {type(error).__name__}") from None
