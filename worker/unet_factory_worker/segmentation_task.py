"""One job from claim to end: the stages fetch, load, weights, infer, write, dicom, each timed, as owner of a lease."""

import logging
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from redis.exceptions import RedisError

from unet_factory.domain.budget import BudgetReport
from unet_factory.domain.cost_model import CostModel
from unet_factory.domain.errors import FactoryError, JobExpired, JobUnknown, SpacingOutOfRange, StorageUnavailable
from unet_factory.domain.first_look import first_look
from unet_factory.domain.jobs import (
    CoarseResult,
    Job,
    JobState,
    PolicyReport,
    Problem,
    SegmentationRequest,
    Spacings,
)
from unet_factory.domain.manifest import Manifest
from unet_factory.domain.plausibility import (
    Finding,
    ImplausiblePolicy,
    field_of_view_findings,
    refuse_implausible,
    volume_findings,
)
from unet_factory.domain.problems import UNEXPECTED, problem_of
from unet_factory.domain.spacing import SpacingPlan
from unet_factory.domain.workload import workload_of
from unet_factory.platform import metrics
from unet_factory.platform.following import following
from unet_factory.platform.logs import safe_traceback
from unet_factory.platform.process_memory import return_freed_memory
from unet_factory.platform.tracing import describe_span, span
from unet_factory.volume import Volume, read_volume, volumes_ml
from unet_factory.volume.dicom import DicomVolume
from unet_factory_worker.child import WorkerContext
from unet_factory_worker.costs import observation
from unet_factory_worker.device import PeakMemory
from unet_factory_worker.dicom_results import Provenance
from unet_factory_worker.inference_stage import Choice, Inference, InferenceStage, finest_affordable, own_spacing
from unet_factory_worker.job_hold import JobHold, JobLost, JobRecord, ResultFiles

log = logging.getLogger(__name__)

NO_FIRST_LOOK = "there is no coarse label map: no coarser spacing would be there in a fifth of the time"
_CALIBRATE = "calibrate"


def run_job(job_id: str, context: WorkerContext) -> None:
    """Work on a job if it is to be had; whatever goes wrong is written to the job, nothing is raised."""
    owner = secrets.token_hex(16)
    lease_s = context.settings.lease_s
    if not context.lifecycle.claim(job_id, owner, lease_s):
        log.info("job %s is held by another worker, or has ended", job_id)
        return
    try:
        job, request = context.jobs.assignment(job_id)
    except (JobUnknown, JobExpired):
        log.info("job %s was purged", job_id)
        return
    record = JobRecord(context.lifecycle, job_id, owner)
    with (
        following(request.origin, "segment", job=job_id, model=job.model),
        JobHold(context.lifecycle, job_id, owner, lease_s, request.deadline_s, record.write_if_due) as lease,
    ):
        log.info("job %s starts", job_id)
        if job.attempts == 1:
            metrics.JOB_WAIT_SECONDS.labels(job.model).observe(max(0.0, time.time() - job.created))
        try:
            Attempt(job, owner, request, context, lease, record, PeakMemory(context.device)).run()
        except RedisError as error:
            log.warning("job %s will be queued again when its lease ends: %s", job_id, type(error).__name__)
    return_freed_memory()


def _problem_of(job_id: str, error: Exception) -> Problem:
    if isinstance(error, FactoryError):
        return problem_of(error)
    if isinstance(error, FileNotFoundError):
        return problem_of(JobExpired("the uploaded scan is no longer there"))
    log.error("job %s: unexpected error\n%s", job_id, safe_traceback(error))
    return UNEXPECTED


@dataclass
class Attempt:
    """One try at one job, by one owner; ``job`` is its record as the try began."""

    job: Job
    owner: str
    request: SegmentationRequest
    context: WorkerContext
    lease: JobHold
    record: JobRecord
    memory: PeakMemory
    timings_s: dict[str, float] = field(default_factory=dict)
    implausible: tuple[Finding, ...] = ()
    _budget: BudgetReport | None = None
    _started: float = field(default_factory=time.perf_counter)

    @property
    def job_id(self) -> str:
        return self.job.id

    def run(self) -> None:
        """Do the job, or write to it why it cannot be done.

        Raises:
            RedisError: nothing can be written now.
        """
        try:
            self._succeed_or_fail()
        except JobLost:
            log.info("job %s was cancelled, purged or taken over; stopped", self.job_id)
            self._clean_up()

    def _succeed_or_fail(self) -> None:
        try:
            self._succeed()
        except (JobLost, RedisError):
            raise
        except Exception as error:
            self._fail(_problem_of(self.job_id, error))

    def _succeed(self) -> None:
        request, context = self.request, self.context
        manifest = context.factory.checkpoint(request.model, request.checkpoint_digest).manifest
        self.record.note(device=str(context.device), precision=context.precision)
        with ExitStack() as stack:
            files = stack.enter_context(ResultFiles(self.job_id, request, context, self.lease))
            source, volume = self._read_scan(stack)
            choice = self._choose(volume, manifest)
            plan = choice.plan
            self._judge(field_of_view_findings(manifest.seen, volume.header.shape_ras, plan.native_mm), manifest)
            if request.progressive:
                self._look_first(volume, plan, manifest, partial(files.write_labelmap, source=source))
            done, cached = self._infer(volume, choice, manifest)
            plan = done.way.plan
            found_ml = volumes_ml(done.labels, plan.native_mm, manifest.labels)
            self._judge(volume_findings(manifest.seen, found_ml), manifest)
            with self._stage("write"):
                more = request.preview or isinstance(volume, DicomVolume)
                files.write_labelmap(request.output_name, done.labels, source, volume.header, more=more)
            if request.preview:
                with self._stage("preview"):
                    files.draw_preview(volume, done.labels, found_ml)
                    files.settle()
            policy = done.way.told(_report(plan, request))
            if isinstance(volume, DicomVolume):
                with self._stage("dicom"):
                    digest, doubts = request.checkpoint_digest, self.implausible
                    provenance = Provenance.of(self.job, manifest, digest, plan, policy, *doubts)
                    files.write_dicom(done.labels, found_ml, volume.series, provenance)
                    files.settle()
        peak_bytes = self._finish(
            JobState.SUCCEEDED, progress=1.0, weights_cached=cached, policy=policy, volumes_ml=found_ml
        )
        self._count(found_ml)
        log.info("job %s succeeded after %.2f s", self.job_id, self._spent_s)
        if not (done.way.smaller_windows or done.shared):
            self._tell_cost(manifest, volume, plan, cached=cached, peak_bytes=peak_bytes)

    def _read_scan(self, stack: ExitStack) -> tuple[Path, Volume]:
        """The scan, and its file, which is there until the stack is closed."""
        request, context = self.request, self.context
        with self._stage("fetch"):
            source = self.lease.while_store_is_away(
                lambda: stack.enter_context(context.blobs.local(self.job_id, request.input_name))
            )
        with self._stage("load"):
            volume = read_volume(
                source,
                limits=context.settings.volume_limits,
                spacing_ras_mm=request.spacing_ras_mm,
                choice=request.image_choice,
            )
        return source, volume

    def _infer(self, volume: Volume, choice: Choice, manifest: Manifest) -> tuple[Inference, bool]:
        """The label map, and whether the network was there before."""
        request, context = self.request, self.context
        with self._stage("weights"):
            unet, cached = context.factory.network(
                request.model, request.checkpoint_digest, choice.plan.snapped, request.conditions
            )
        with self._stage("infer"):
            stage = InferenceStage(
                self.job_id,
                request,
                context,
                manifest,
                self.record.note,
                self._on_window,
                self.job.mirrored_axes,
                may_share=True,
            )
            return stage.run(unet, volume, choice), cached

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        self.lease.check()
        started = time.perf_counter()
        with span(name):
            yield
        elapsed = time.perf_counter() - started
        self.timings_s[name] = round(elapsed, 6)
        metrics.JOB_STAGE_SECONDS.labels(self.request.model, name).observe(elapsed)
        self.record.note(timings_s=self.timings_s)

    def _choose(self, volume: Volume, manifest: Manifest) -> Choice:
        """The working spacing, told to the caller.

        Raises:
            SpacingOutOfRange, BudgetTooSmall: there is none.
        """
        request, native_mm = self.request, volume.spacing_ras_mm
        for axis, mm in zip("RAS", native_mm, strict=True):
            metrics.SPACING_MM.labels(request.model, axis).observe(mm)
        try:
            if request.budget.limited:
                costs = self._costs()
                choice = finest_affordable(request, manifest, volume.header, costs, self._spent_s)
            else:
                choice = own_spacing(request, manifest, volume.header)
        except SpacingOutOfRange:
            metrics.SPACING_OUT_OF_RANGE.labels(request.model).inc()
            raise
        plan, self._budget = choice.plan, choice.budget
        if plan.out_of_range:
            metrics.SPACING_OUT_OF_RANGE.labels(request.model).inc()
        spacing = Spacings(native=native_mm, requested=request.working_spacing_mm, working=plan.working_mm)
        self.record.note(
            spacing=spacing,
            policy=_report(plan, request),
            postprocessing=manifest.postprocessing_in_words,
            notes=self._notes(volume),
            budget=choice.budget,
        )
        return choice

    def _look_first(self, volume: Volume, plan: SpacingPlan, manifest: Manifest, write: Callable[..., None]) -> None:
        """Make a coarse label map, or tell that there is none worth making."""
        request, context = self.request, self.context
        costs = context.costs.model(context.kind, request.checkpoint_digest)
        coarse = first_look(manifest, volume.header.shape_ras, plan, request.outside, costs)
        if coarse is None:
            self.record.note(notes=(*self._notes(volume), NO_FIRST_LOOK))
            return
        with self._stage("coarse"):
            network = context.factory.network(
                request.model, request.checkpoint_digest, coarse.snapped, request.conditions
            ).unet
            stage = InferenceStage(
                self.job_id, request, context, manifest, self.record.note, lambda *_: self.lease.check()
            )
            labels = stage.run(network, volume, Choice(coarse)).labels
            found_ml = volumes_ml(labels, coarse.native_mm, manifest.labels)
            if request.implausible is ImplausiblePolicy.REJECT and volume_findings(manifest.seen, found_ml):
                return
            write(request.coarse_name, labels, header=volume.header)
        self.record.note(coarse=CoarseResult(spacing=coarse.working_mm, seconds=round(self._spent_s, 4)))
        self.record.write()

    def _costs(self) -> CostModel:
        """What jobs cost here; measured now where nobody knows, which the budget does not pay for."""
        context, digest = self.context, self.request.checkpoint_digest
        if (known := context.costs.model(context.kind, digest)) is not None:
            return known
        with self._stage(_CALIBRATE):
            seen = context.calibration.measure_all(self.request.model, digest, self.lease.check)
        self.memory = PeakMemory(context.device)
        fitted = CostModel.fit(seen)
        assert fitted is not None, "a calibration is enough to fit"
        return fitted

    @property
    def _spent_s(self) -> float:
        """Since the job was taken."""
        return time.perf_counter() - self._started - self.timings_s.get(_CALIBRATE, 0.0)

    def _judge(self, findings: tuple[Finding, ...], manifest: Manifest) -> None:
        """Write what is found to the job, before more is done with its scan or its result.

        Raises:
            Implausible: something is found, and the caller wants none such.
        """
        if findings:
            self.implausible += findings
            self.record.note(implausible=self.implausible)
        refuse_implausible(self.request.implausible, self.implausible, manifest.name)

    def _notes(self, volume: Volume) -> tuple[str, ...]:
        """What was noted while the scan was read, after what a courier noted while it was fetched."""
        return tuple(dict.fromkeys((*self.job.notes, *volume.header.notes)))

    def _on_window(self, done: int, total: int) -> None:
        self.lease.check()
        with suppress(RedisError):  # whether we may go on is the lease's to say
            self.record.note(progress=round(done / total, 4))

    def _fail(self, problem: Problem) -> None:
        log.warning("job %s failed: %s", self.job_id, problem.type)
        describe_span(attributes={"error.type": problem.type})
        self._finish(JobState.FAILED, error=problem)

    def _count(self, found_ml: Mapping[str, float]) -> None:
        model, device = self.request.model, str(self.context.device)
        metrics.JOB_SECONDS.labels(model, device).observe(max(0.0, time.time() - self.job.created))
        for label, ml in found_ml.items():
            metrics.LABEL_VOLUME_ML.labels(model, label).observe(ml)

    def _clean_up(self) -> None:
        """A result put down just after a purge must not stay."""
        try:
            self.context.jobs.get(self.job_id)
        except (JobUnknown, JobExpired):
            with suppress(StorageUnavailable):  # maintenance deletes what has no record
                self.context.blobs.delete(self.job_id)

    def _tell_cost(
        self, manifest: Manifest, volume: Volume, plan: SpacingPlan, *, cached: bool, peak_bytes: int
    ) -> None:
        """A store that is away or full costs the knowledge, not the job."""
        request, shape_ras = self.request, volume.header.shape_ras
        work = workload_of(manifest, shape_ras, plan, dicom=request.is_dicom, mirroring=request.mirroring)
        seen = observation(work, self.timings_s, cached=cached, peak_bytes=peak_bytes)
        try:
            self.context.costs.add(self.context.kind, request.checkpoint_digest, seen)
        except RedisError as error:
            log.warning("what job %s cost could not be recorded: %s", self.job_id, type(error).__name__)

    def _finish(self, state: JobState, **fields: Any) -> int:
        """End the job; returns its peak memory in bytes."""
        peak_bytes = self.memory.read()
        fields |= {"timings_s": self.timings_s, "peak_bytes": peak_bytes}
        if self._budget is not None:
            fields["budget"] = self._budget.spent(self._spent_s, peak_bytes)
        self.record.finish(state, **fields)
        if self.implausible:
            metrics.IMPLAUSIBLE_RESULTS.labels(self.request.model).inc()
        return peak_bytes


def _report(plan: SpacingPlan, request: SegmentationRequest) -> PolicyReport:
    return PolicyReport(outside=request.outside, out_of_range=plan.out_of_range, resampled=plan.resampled)
