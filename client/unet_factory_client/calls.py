"""All requests of the gateway: what is sent, and what is made of the answer."""

import gzip
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from urllib.parse import quote as quoted

import httpx
from pydantic import BaseModel, TypeAdapter

from unet_factory.domain.conditions import conditions_text
from unet_factory.domain.jobs import Job, JobState, NetworkFormat
from unet_factory.domain.quote import Quote
from unet_factory.domain.segmentation_parameters import SegmentationParameters
from unet_factory.domain.spacing import OutsidePolicy, parse_spacing
from unet_factory_client.answers import DeliveryDescription, FactoryStatus, ModelDescription, StandaloneNetwork
from unet_factory_client.call import Call
from unet_factory_client.files import Scan, Target

if TYPE_CHECKING:
    from nibabel.nifti1 import Nifti1Image

_Number = TypeVar("_Number", int, float)

_NO_PARAMETERS = SegmentationParameters()
_GZIPPED = b"\x1f\x8b"
_WAIT_S = 30  # how long one request for a network may wait for a worker, below the timeout
_MODELS = TypeAdapter(list[ModelDescription])


class JobPage(BaseModel):
    """A part of the list of jobs; ``next`` is the cursor of the one after it."""

    jobs: list[Job]
    next: str | None


def check() -> Call[None]:
    """Raise at once, without trying again, when nobody answers at the URL."""
    return Call("GET", "/livez", _nothing, persistent=False)


def readiness() -> Call[bool]:
    """Whether the gateway could serve a request now."""
    return Call("GET", "/readyz", lambda response: response.status_code == httpx.codes.OK, persistent=False)


def submit(scan: Scan | None, parameters: SegmentationParameters = _NO_PARAMETERS) -> Call[Job]:
    """Upload a scan, or name a series in an archive. Safe to try again.

    Args:
        scan: the path of a volume, of a zip archive of a DICOM series, or of a folder of its files; or a nibabel
            image. None where ``parameters`` name a series in an archive.

    Returns:
        The scan's job, accepted and kept from here on.

    Raises:
        FactoryProblem: it was refused.
        NotAVolume: a folder without DICOM files.
    """
    headers = {"Idempotency-Key": secrets.token_hex(16)}
    return Call("POST", "/segmentations", _job, headers=headers, form=parameters.to_texts(), scan=scan)


def job(job_id: str) -> Call[Job]:
    """The job as it is now."""
    return Call("GET", f"/segmentations/{job_id}", _job)


def jobs_page(states: Sequence[JobState], page_size: int, cursor: str | None) -> Call[JobPage]:
    query: dict[str, Any] = {"limit": page_size, "state": [state.value for state in states]}
    if cursor is not None:
        query["cursor"] = cursor

    def parse(response: httpx.Response) -> JobPage:
        return JobPage.model_validate_json(response.content, extra="ignore")

    return Call("GET", "/segmentations", parse, params=query)


def events_path(job_id: str) -> str:
    return f"/segmentations/{job_id}/events"


def labelmap(job_id: str, to: Target) -> Call[Path]:
    """Download a succeeded job's label map to ``to``: the whole file or none."""
    return _download(job_id, "labelmap", to)


def label_image(job_id: str) -> Call["Nifti1Image"]:
    """A succeeded job's label map as a nibabel image in memory, uint8, on the scan's own grid.

    Raises:
        ValueError: the job's ``output`` is not ``nii.gz``.
    """

    def parse(response: httpx.Response) -> "Nifti1Image":
        from nibabel.nifti1 import Nifti1Image  # needs the extra `volume`

        if not response.content.startswith(_GZIPPED):
            raise ValueError(f"the label map of job {job_id} is no NIfTI file: submit the scan with output='nii.gz'")
        return Nifti1Image.from_bytes(gzip.decompress(response.content))

    return Call("GET", f"/segmentations/{job_id}/labelmap", parse)


def coarse_labelmap(job_id: str, to: Target) -> Call[Path]:
    """Download the first label map of a job that was submitted with ``progressive=True``, while it goes on."""
    return _download(job_id, "coarse-labelmap", to)


def seg(job_id: str, to: Target) -> Call[Path]:
    """Download the DICOM segmentation that a succeeded job made of a DICOM scan."""
    return _download(job_id, "seg", to)


def report(job_id: str, to: Target) -> Call[Path]:
    """Download the DICOM measurement report that a succeeded job made of a DICOM scan."""
    return _download(job_id, "report", to)


def preview(job_id: str, to: Target) -> Call[Path]:
    """Download the picture (PNG) of a succeeded job that was submitted with ``preview=True``."""
    return _download(job_id, "preview.png", to)


def delete(job_id: str) -> Call[None]:
    """Cancel the job if it is still running, and delete all its data."""
    return Call("DELETE", f"/segmentations/{job_id}", _nothing)


def unet(
    spacing: Sequence[float],
    *,
    model: str | None = None,
    member: int | None = None,
    file_format: NetworkFormat = "safetensors",
    dtype: Literal["float32", "float16"] = "float32",
    conditions: Mapping[str, float] | None = None,
    outside: OutsidePolicy | None = None,
) -> Call[StandaloneNetwork]:
    """The standalone network for ``spacing`` (mm, R,A,S), as the bytes of a file of ``file_format``.

    ``member``: which network of an ensemble, from 1 on.
    """
    query = {
        "spacing": ",".join(repr(float(value)) for value in spacing),
        "model": model,
        "member": None if member is None else str(member),
        "format": file_format,
        "dtype": dtype,
        "conditions": conditions_text(conditions) if conditions else None,
        "outside": outside and str(outside),
    }
    return Call(
        "GET",
        "/unet",
        _network,
        params=_given(query),
        headers={"Prefer": f"wait={_WAIT_S}"},
        again=lambda response: response.status_code == httpx.codes.ACCEPTED,
    )


def models() -> Call[list[ModelDescription]]:
    """The gateway's models."""
    return Call("GET", "/models", lambda response: _MODELS.validate_json(response.content))


def model(name: str) -> Call[ModelDescription]:
    """One of the gateway's models."""

    def parse(response: httpx.Response) -> ModelDescription:
        return ModelDescription.model_validate_json(response.content)

    return Call("GET", f"/models/{quoted(name, safe='')}", parse)


def status() -> Call[FactoryStatus]:
    """The gateway's workers, queues and cache."""
    return Call("GET", "/status", lambda response: FactoryStatus.model_validate_json(response.content))


def quote(
    shape: Sequence[int],
    spacing: Sequence[float],
    *,
    model: str | None = None,
    working_spacing: Sequence[float] | None = None,
    outside: OutsidePolicy | None = None,
    dicom: bool = False,
    mirroring: bool = False,
    progressive: bool = False,
    budget_seconds: float | None = None,
    budget_bytes: int | None = None,
) -> Call[Quote]:
    """What a scan of ``shape`` voxels of ``spacing`` mm (R,A,S) would cost at its own spacing and at coarser ones.

    Args:
        working_spacing: the finest spacing to quote; the scan's own by default.
        dicom: whether the scan is a DICOM series.
        mirroring: whether its mirror images are to be segmented too.
        progressive: whether a coarse label map is to be made first.
        budget_seconds, budget_bytes: have the answer name the finest spacing that keeps them.
    """
    wishes = {
        "model": model,
        "working_spacing": None if working_spacing is None else _plain(float, working_spacing),
        "outside": outside and str(outside),
        "mirroring": mirroring or None,
        "progressive": progressive or None,
        "budget_seconds": budget_seconds,
        "budget_bytes": budget_bytes,
    }
    body = _given(wishes) | {"shape": _plain(int, shape), "spacing": _plain(float, spacing), "dicom": dicom}
    return Call(
        "POST", "/quote", lambda response: Quote.model_validate_json(response.content, extra="ignore"), json=body
    )


def deliveries(state: Literal["dead", "pending"] = "dead") -> Call[list[DeliveryDescription]]:
    """Deliveries that were given up (dead) or wait (pending); the oldest first, at most 1000."""

    def parse(response: httpx.Response) -> list[DeliveryDescription]:
        return [DeliveryDescription.model_validate(entry) for entry in response.json()["deliveries"]]

    return Call("GET", "/deliveries", parse, params={"state": state, "limit": 1000})


def replay(delivery_id: str) -> Call[DeliveryDescription]:
    """Have a delivery tried again now."""
    return Call(
        "POST",
        f"/deliveries/{delivery_id}/replay",
        lambda response: DeliveryDescription.model_validate_json(response.content),
    )


def _download(job_id: str, result: str, to: Target) -> Call[Path]:
    path = Path(to)
    return Call("GET", f"/segmentations/{job_id}/{result}", lambda _: path, to=path)


def _job(response: httpx.Response) -> Job:
    return Job.model_validate_json(response.content, extra="ignore")


def _network(response: httpx.Response) -> StandaloneNetwork:
    return StandaloneNetwork(
        blob=response.content,
        etag=response.headers["ETag"],
        requested_mm=parse_spacing(response.headers["X-Requested-Spacing"]),
        snapped_mm=parse_spacing(response.headers["X-Snapped-Spacing"]),
        headers=dict(response.headers),
    )


def _nothing(_: httpx.Response) -> None:
    return None


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _plain(kind: type[_Number], values: Sequence[float]) -> list[_Number]:
    """Python's own numbers, which JSON can hold, also where NumPy's were given, as in nibabel's headers."""
    return [kind(value) for value in values]
