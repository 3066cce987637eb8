"""``segment`` by a gateway: upload, progress, download."""

import threading
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx

from unet_factory.domain.jobs import Job
from unet_factory.domain.segmentation_parameters import SegmentationParameters
from unet_factory.volume import read_volume
from unet_factory.volume.images import scan_file
from unet_factory_cli.batch import OnProgress
from unet_factory_cli.failures import say
from unet_factory_cli.label_statistics import LabelStatistics, label_statistics
from unet_factory_cli.outcome import Outcome, warn
from unet_factory_cli.scans import Task
from unet_factory_client import FactoryClient, FactoryProblem, ModelDescription


class ByGateway:
    """Safe to share between threads."""

    def __init__(self, client: FactoryClient, parameters: SegmentationParameters, *, measure: bool) -> None:
        self._client, self._parameters, self._measure = client, parameters, measure
        self._running: set[str] = set()
        self._have_coarse: set[str] = set()
        self._lock = threading.Lock()

    def segment(self, task: Task, progress: OnProgress) -> Outcome:
        """
        Raises:
            FactoryProblem: it was refused, failed or was cancelled.
            httpx.HTTPError: the gateway cannot be reached.
        """
        job = self._client.submit(task.scan, self._parameters)
        with self._lock:
            self._running.add(job.id)
        doubts = job.implausible
        warn(job.model, doubts, str(task.scan or ""))  # in time to interrupt it
        job = self._client.wait(job.id, lambda job: self._on_change(job, task, progress))
        self._save(job, task)
        with self._lock:
            self._running.discard(job.id)
        warn(job.model, [finding for finding in job.implausible if finding not in doubts], str(task.scan or ""))
        return self._outcome(job, task)

    def stop(self) -> None:
        """Take back what was submitted."""
        with self._lock:
            running = list(self._running)
        for job_id in running:
            with suppress(FactoryProblem, httpx.HTTPError):
                self._client.delete(job_id)

    def _on_change(self, job: Job, task: Task, progress: OnProgress) -> None:
        progress(0.99 * job.progress, job.state)
        coarse = task.output.with_name(f"{task.output.name.partition('.')[0]}.coarse.{self._parameters.output}")
        if job.coarse is not None and not job.state.final and job.id not in self._have_coarse:
            self._have_coarse.add(job.id)
            say(f"coarse label map: {self._client.coarse_labelmap(job.id, coarse)}")

    def _save(self, job: Job, task: Task) -> None:
        if task.report is not None:
            self._client.report(job.id, task.report)
        if task.preview is not None:
            self._client.preview(job.id, task.preview)
        (self._client.labelmap if task.has_labelmap else self._client.seg)(job.id, task.output)

    def _outcome(self, job: Job, task: Task) -> Outcome:
        return Outcome(
            scan=str(task.scan or ""),
            output=str(task.output),
            state="segmented",
            model=job.model,
            checkpoint_digest=self._models[job.model].digest if job.model in self._models else None,
            device=job.device,
            spacing=job.spacing,
            policy=job.policy,
            budget=job.budget,
            conditions=job.conditions,
            volumes_ml=job.volumes_ml or {},
            implausible=job.implausible,
            notes=job.notes,
            timings_s=job.timings_s,
            labels=self._measured(job, task) if self._measure and task.scan is not None else None,
        )

    @cached_property
    def _models(self) -> dict[str, ModelDescription]:
        return {model.name: model for model in self._client.models()}

    def _measured(self, job: Job, task: Task) -> tuple[LabelStatistics, ...]:
        assert task.scan is not None
        with scan_file(task.scan) as scan, TemporaryDirectory() as folder:
            labelmap = (
                task.output if task.has_labelmap else self._client.labelmap(job.id, Path(folder) / "labels.nii.gz")
            )
            volume = read_volume(
                scan, spacing_ras_mm=self._parameters.spacing_ras_mm, choice=self._parameters.image_choice
            )
            labels = read_volume(labelmap, spacing_ras_mm=volume.spacing_ras_mm).data
        return label_statistics(volume.data, labels, self._models[job.model].labels, job.volumes_ml or {})
