"""What each kind of delivery does between a job's record and another system; exceptions say how it failed."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from unet_factory.destinations import Destinations, DicomWeb, Dimse
from unet_factory.domain.errors import (
    DestinationsInvalid,
    DestinationUnknown,
    FactoryError,
    FetchFailed,
    JobExpired,
    JobUnknown,
    StorageFull,
    StorageUnavailable,
)
from unet_factory.domain.jobs import REPORT_NAME, SEG_NAME, DeliveryKind, Job, JobState, SegmentationRequest, Spacings
from unet_factory.domain.plausibility import ImplausiblePolicy, in_words
from unet_factory.domain.problems import problem_of
from unet_factory.jobs.deliveries import ClaimedDelivery
from unet_factory.jobs.lifecycle import JobLifecycle
from unet_factory.jobs.store import JobStore
from unet_factory.platform.blob_store import BlobStore
from unet_factory.volume import read_header
from unet_factory.volume.dicom import pack_series
from unet_factory_courier import dicomweb, dimse
from unet_factory_courier.outcomes import GiveUp, NothingToDo, TryAgain
from unet_factory_courier.settings import CourierSettings
from unet_factory_courier.webhook import WebhookSender

RESULTS = (SEG_NAME, REPORT_NAME)

_Archive = TypeVar("_Archive", DicomWeb, Dimse)


@dataclass(frozen=True)
class DeliveryTasks:
    """Safe to share between threads."""

    settings: CourierSettings
    destinations: Destinations
    jobs: JobStore
    lifecycle: JobLifecycle
    blobs: BlobStore

    def run(self, claimed: ClaimedDelivery) -> None:
        """
        Raises:
            TryAgain: it failed, and may succeed later.
            GiveUp: it would always fail.
            NothingToDo: the job ended without what is to be delivered, or before its scan was fetched.
        """
        try:
            job, request = self.jobs.assignment(claimed.job_id)
            self._action(claimed.delivery.kind)(claimed, job, request)
        except (JobUnknown, JobExpired, FileNotFoundError):
            raise NothingToDo("the job was purged") from None
        except DestinationUnknown:
            raise TryAgain("the destination is no longer configured") from None
        except DestinationsInvalid as error:
            raise TryAgain(str(error)) from None  # a secret is missing: the operator's to mend
        except (StorageFull, StorageUnavailable) as error:
            raise TryAgain(str(error)) from None

    def _action(self, kind: DeliveryKind) -> Callable[[ClaimedDelivery, Job, SegmentationRequest], None]:
        return {
            DeliveryKind.FETCH: self._fetch,
            DeliveryKind.WEBHOOK: self._call_back,
            DeliveryKind.DICOMWEB: self._store_by_dicomweb,
            DeliveryKind.DIMSE: self._store_by_dimse,
        }[kind]

    def _call_back(self, claimed: ClaimedDelivery, job: Job, request: SegmentationRequest) -> None:
        assert request.callback_url is not None
        WebhookSender(self.destinations.webhooks).send(claimed.id, request.callback_url, job)

    def _store_by_dicomweb(self, claimed: ClaimedDelivery, job: Job, request: SegmentationRequest) -> None:
        archive = self.destinations.archive(claimed.delivery.destination).dicomweb
        with self._results(job, request) as files:
            dicomweb.store(_configured(archive), files)

    def _store_by_dimse(self, claimed: ClaimedDelivery, job: Job, request: SegmentationRequest) -> None:
        archive = self.destinations.archive(claimed.delivery.destination).dimse
        with self._results(job, request) as files:
            dimse.store(_configured(archive), files)

    @contextmanager
    def _results(self, job: Job, request: SegmentationRequest) -> Iterator[list[Path]]:
        """The DICOM objects that the job made, as local files.

        Raises:
            NothingToDo: there are none, or they are withheld because they are implausible.
        """
        if job.state is not JobState.SUCCEEDED:
            raise NothingToDo(f"the job {job.state}")
        if job.implausible and request.implausible is ImplausiblePolicy.WITHHOLD:
            raise NothingToDo(f"withheld as implausible: {in_words(job.implausible)}")
        names = set(self.blobs.names(job.id))
        with ExitStack() as stack:
            files = [stack.enter_context(self.blobs.local(job.id, name)) for name in RESULTS if name in names]
            if not files:
                raise NothingToDo("the job has no DICOM result")
            yield files

    def _fetch(self, claimed: ClaimedDelivery, job: Job, request: SegmentationRequest) -> None:
        """From the archive to the job's input, checked as the gateway checks an upload."""
        if job.state.final:
            raise NothingToDo(f"the job {job.state}")
        assert request.series is not None
        archive = self.destinations.source(claimed.delivery.destination)
        started = time.perf_counter()
        limits = self.settings.volume_limits
        with self.blobs.scratch() as folder:
            packed, instances = folder / request.input_name, folder / "instances"
            instances.mkdir()
            files = dicomweb.fetch(archive, request.series, instances, limits.decompressed_bytes)
            notes = self._notes_on_missing(claimed, dicomweb.announced_instances(archive, request.series), len(files))
            pack_series(files, packed)
            try:
                header = read_header(
                    packed, limits=limits, spacing_ras_mm=request.spacing_ras_mm, choice=request.image_choice
                )
                header.check_referable()
            except FactoryError as error:
                raise GiveUp(f"the series cannot be segmented: {error.slug}", error) from None
            self.blobs.put(job.id, request.input_name, packed)
        spacing = Spacings(native=header.spacing_ras_mm, requested=request.working_spacing_mm)
        timings_s = job.timings_s | {"pull": round(time.perf_counter() - started, 6)}
        if not self.jobs.describe(job.id, spacing=spacing, timings_s=timings_s, notes=notes):
            self.blobs.delete(job.id)
            raise NothingToDo("the job ended while its series was fetched")

    def _notes_on_missing(self, claimed: ClaimedDelivery, announced: int, came: int) -> tuple[str, ...]:
        """What to tell of instances that the archive counts but does not hand out.

        Raises:
            TryAgain: they may still be on their way.
        """
        if came >= announced:
            return ()
        if claimed.tried_for_s < self.settings.fetch_settle_s:
            raise TryAgain(f"the archive sent {came} of {announced} instances")
        return (f"the archive counts {announced} instances in the series but sent {came}; these were used",)

    def fail_job(self, claimed: ClaimedDelivery, reason: str, error: FactoryError | None) -> None:
        """End a job whose scan cannot be had."""
        problem = problem_of(error or FetchFailed(f"{reason}, {claimed.delivery.attempts} attempts"))
        self.lifecycle.fail(claimed.job_id, problem)


def _configured(archive: _Archive | None) -> _Archive:
    if archive is None:
        raise TryAgain("the destination is no longer configured for this")
    return archive
