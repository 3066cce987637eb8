"""Segment scans and fetch networks over HTTP."""

import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import httpx

from unet_factory.domain.conditions import conditions_text
from unet_factory.domain.jobs import Job, JobState, NetworkFormat
from unet_factory.domain.loopback import is_loopback
from unet_factory.domain.quote import Quote
from unet_factory.domain.segmentation_parameters import SegmentationParameters
from unet_factory.domain.spacing import OutsidePolicy, parse_spacing
from unet_factory.platform.atomic_files import whole_file
from unet_factory_client.answers import DeliveryDescription, ModelDescription, StandaloneNetwork
from unet_factory_client.files import Scan, one_file
from unet_factory_client.problems import FactoryProblem
from unet_factory_client.retries import RETRY_FOR_S, raise_for_problem, retried

DEFAULT_URL = "http://127.0.0.1:8000"

OnProgress = Callable[[Job], None]

_NO_PARAMETERS = SegmentationParameters()
_TIMEOUT = httpx.Timeout(60.0, connect=5.0)
_PROBE_TIMEOUT_S = 5.0
_RECONNECT_S = 0.5
_WAIT_S = 30  # how long one request for a network may wait for a worker, below the timeout


class FactoryClient:
    """Synchronous; a context manager. Connections refused and answers 429 and 503 are tried again for ``retry_for_s``.

    Every method raises :class:`FactoryProblem` for what the gateway refuses and ``httpx.TransportError`` when it
    cannot be reached.
    """

    def __init__(
        self, base_url: str = DEFAULT_URL, *, api_key: str | None = None, retry_for_s: float = RETRY_FOR_S
    ) -> None:
        url = httpx.URL(base_url.rstrip("/"))
        headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=_TIMEOUT, trust_env=not is_loopback(url.host))
        self._retry_for_s = retry_for_s

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def check(self) -> None:
        """Raise at once, without trying again, when nobody answers at the URL."""
        raise_for_problem(self._http.get("/livez", timeout=_PROBE_TIMEOUT_S))

    def ready(self) -> bool:
        """Whether the gateway could serve a request now; never raises, never tries again."""
        try:
            return self._http.get("/readyz", timeout=_PROBE_TIMEOUT_S).status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    def segment(
        self,
        scan: Scan | None,
        to: Path,
        parameters: SegmentationParameters = _NO_PARAMETERS,
        *,
        on_progress: OnProgress | None = None,
    ) -> Job:
        """Segment a scan and write its label map, on the scan's own grid, to ``to``.

        Args:
            scan: the path of a volume, of a zip archive of a DICOM series, or of a folder of its files; or a nibabel
                image. None where ``parameters`` name a series in an archive.
            on_progress: called with the job whenever it has changed.

        Raises:
            FactoryProblem: it was refused, failed or was cancelled.
            NotAVolume: a folder without DICOM files.
        """
        job = self.wait(self.submit(scan, parameters).id, on_progress)
        self.labelmap(job.id, to)
        return job

    def submit(self, scan: Scan | None, parameters: SegmentationParameters = _NO_PARAMETERS) -> Job:
        """Upload a scan (see :meth:`segment`), or name a series in an archive. Safe to try again.

        Returns:
            The scan's job, accepted and kept from here on.

        Raises:
            FactoryProblem: it was refused.
            NotAVolume: a folder without DICOM files.
        """
        form: dict[str, Any] = {name: (None, text) for name, text in parameters.to_texts().items()}
        headers = {"Idempotency-Key": secrets.token_hex(16)}

        def post(**file: Any) -> httpx.Response:
            return self._http.post("/segmentations", files=form | file, headers=headers)

        def upload(path: Path) -> httpx.Response:
            with path.open("rb") as file:
                return post(file=("scan", file))  # a neutral name: those of scans tend to name the patient

        if scan is None:
            return _job(self._answered(post))
        with one_file(scan) as path:
            return _job(self._answered(lambda: upload(path)))

    def wait(self, job_id: str, on_progress: OnProgress | None = None) -> Job:
        """Follow a job to its end; outlives a restart of the gateway.

        Raises:
            FactoryProblem: it failed, was cancelled, or is unknown.
        """
        while True:
            job = self._follow(job_id, on_progress)
            if job.state is JobState.SUCCEEDED:
                return job
            if job.state.final:
                raise FactoryProblem.of_job(job)
            time.sleep(_RECONNECT_S)

    def job(self, job_id: str) -> Job:
        """The job as it is now."""
        return _job(self._get(f"/segmentations/{job_id}"))

    def jobs(self, *states: JobState, page_size: int = 50) -> Iterator[Job]:
        """Your jobs, the newest first; only those in one of ``states`` where any are given."""
        query: dict[str, Any] = {"limit": page_size, "state": [state.value for state in states]}
        while True:
            page = self._get("/segmentations", params=query).json()
            for job in page["jobs"]:
                yield Job.model_validate(job, extra="ignore")
            if page["next"] is None:
                return
            query["cursor"] = page["next"]

    def events(self, job_id: str) -> Iterator[Job]:
        """The job now and whenever it changes, until it is final or the connection ends."""
        from httpx_sse import connect_sse

        with connect_sse(self._http, "GET", f"/segmentations/{job_id}/events") as source:
            if source.response.is_error:
                source.response.read()
            raise_for_problem(source.response)
            for event in source.iter_sse():
                if event.data.startswith("{"):
                    yield Job.model_validate_json(event.data, extra="ignore")

    def labelmap(self, job_id: str, to: Path) -> Path:
        """Download a succeeded job's label map to ``to``: the whole file or none."""
        return self._download(f"/segmentations/{job_id}/labelmap", to)

    def coarse_labelmap(self, job_id: str, to: Path) -> Path:
        """Download the first label map of a job that was submitted with ``progressive=True``, while it goes on."""
        return self._download(f"/segmentations/{job_id}/coarse-labelmap", to)

    def seg(self, job_id: str, to: Path) -> Path:
        """Download the DICOM segmentation that a succeeded job made of a DICOM scan."""
        return self._download(f"/segmentations/{job_id}/seg", to)

    def report(self, job_id: str, to: Path) -> Path:
        """Download the DICOM measurement report that a succeeded job made of a DICOM scan."""
        return self._download(f"/segmentations/{job_id}/report", to)

    def preview(self, job_id: str, to: Path) -> Path:
        """Download the picture (PNG) of a succeeded job that was submitted with ``preview=True``."""
        return self._download(f"/segmentations/{job_id}/preview.png", to)

    def delete(self, job_id: str) -> None:
        """Cancel the job if it is still running, and delete all its data."""
        self._answered(lambda: self._http.delete(f"/segmentations/{job_id}"))

    def unet(
        self,
        spacing: Sequence[float],
        *,
        model: str | None = None,
        file_format: NetworkFormat = "safetensors",
        dtype: Literal["float32", "float16"] = "float32",
        conditions: Mapping[str, float] | None = None,
        outside: OutsidePolicy | None = None,
    ) -> StandaloneNetwork:
        """The standalone network for ``spacing`` (mm, R,A,S), as the bytes of a file of ``file_format``."""
        query = {
            "spacing": _text(spacing),
            "model": model,
            "format": file_format,
            "dtype": dtype,
            "conditions": conditions_text(conditions) if conditions else None,
            "outside": outside and str(outside),
        }
        parameters = {name: value for name, value in query.items() if value is not None}
        while True:
            response = self._get("/unet", params=parameters, headers={"Prefer": f"wait={_WAIT_S}"})
            if response.status_code != httpx.codes.ACCEPTED:
                return _network(response)

    def models(self) -> list[ModelDescription]:
        """The gateway's models."""
        return [ModelDescription.model_validate(entry) for entry in self._get("/models").json()]

    def quote(
        self,
        shape: Sequence[int],
        spacing: Sequence[float],
        *,
        model: str | None = None,
        working_spacing: Sequence[float] | None = None,
        outside: OutsidePolicy | None = None,
        dicom: bool = False,
        budget_seconds: float | None = None,
        budget_bytes: int | None = None,
    ) -> Quote:
        """What a scan of ``shape`` voxels of ``spacing`` mm (R,A,S) would cost at its own spacing and at coarser ones.

        Args:
            working_spacing: the finest spacing to quote; the scan's own by default.
            dicom: whether the scan is a DICOM series.
            budget_seconds, budget_bytes: have the answer name the finest spacing that keeps them.
        """
        wishes = {
            "model": model,
            "working_spacing": None if working_spacing is None else list(working_spacing),
            "outside": outside and str(outside),
            "budget_seconds": budget_seconds,
            "budget_bytes": budget_bytes,
        }
        given = {name: value for name, value in wishes.items() if value is not None}
        body = given | {"shape": list(shape), "spacing": list(spacing), "dicom": dicom}
        answer = self._answered(lambda: self._http.post("/quote", json=body))
        return Quote.model_validate_json(answer.content, extra="ignore")

    def deliveries(self, state: Literal["dead", "pending"] = "dead") -> list[DeliveryDescription]:
        """Deliveries that were given up (dead) or wait (pending); the oldest first, at most 1000."""
        answer = self._get("/deliveries", params={"state": state, "limit": 1000}).json()
        return [DeliveryDescription.model_validate(entry) for entry in answer["deliveries"]]

    def replay(self, delivery_id: str) -> DeliveryDescription:
        """Have a delivery tried again now."""
        answer = self._answered(lambda: self._http.post(f"/deliveries/{delivery_id}/replay"))
        return DeliveryDescription.model_validate_json(answer.content)

    def _follow(self, job_id: str, on_progress: OnProgress | None) -> Job:
        """The job's state when its event stream ended, for whatever reason."""
        from httpx_sse import SSEError

        job = self.job(job_id)
        try:
            for job in self.events(job_id):
                if on_progress is not None:
                    on_progress(job)
                if job.state.final:
                    return job
        except (httpx.TransportError, SSEError):
            return self.job(job_id)
        return job

    def _download(self, path: str, to: Path) -> Path:
        def fetch() -> httpx.Response:
            with self._http.stream("GET", path) as response, whole_file(to) as partial:
                if response.is_error:
                    response.read()
                raise_for_problem(response)
                with partial.open("wb") as file:
                    for chunk in response.iter_bytes():
                        file.write(chunk)
            return response

        self._answered(fetch)
        return to

    def _get(self, path: str, **arguments: Any) -> httpx.Response:
        return self._answered(lambda: self._http.get(path, **arguments))

    def _answered(self, send: Callable[[], httpx.Response]) -> httpx.Response:
        return retried(send, self._retry_for_s)


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


def _text(spacing: Sequence[float] | None) -> str | None:
    return None if spacing is None else ",".join(repr(float(value)) for value in spacing)
