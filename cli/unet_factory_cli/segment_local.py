"""``segment --local``: in this process, without any server."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, NamedTuple

from unet_factory.domain.errors import MalformedRequest
from unet_factory.domain.precision import Precision
from unet_factory.domain.segmentation_parameters import SegmentationParameters
from unet_factory.model.in_process import LocalSegmentation, LocalSegmenter
from unet_factory.platform.atomic_files import whole_file
from unet_factory.platform.model_registry import ModelRegistry
from unet_factory.volume import sniff_format, write_labelmap
from unet_factory.volume.images import scan_file
from unet_factory.volume.preview import draw_preview
from unet_factory_cli.batch import Interrupted, OnProgress
from unet_factory_cli.failures import MISUSED, CommandFailed
from unet_factory_cli.label_statistics import label_statistics
from unet_factory_cli.outcome import Outcome, warn
from unet_factory_cli.scans import Task

HEEDED = frozenset(
    {
        *("model", "conditions", "spacing_ras_mm", "working_spacing_mm", "outside", "implausible"),
        *("image_type", "echo_time_ms", "series_uid", "output", "preview"),
    }
)
"""The parameters of a segmentation that have their effect here; the others are refused."""


class Computing(NamedTuple):
    """Where, and in which arithmetic; a worker's defaults."""

    device: str = "auto"
    precision: Precision | Literal["auto"] = "auto"


class InProcess:
    """Safe to share between threads.

    Raises:
        CommandFailed: something is asked for that only a gateway can do, or the device is not there.
        ModelUnknown: there is no such model.
        CheckpointInvalid: it cannot be used.
    """

    def __init__(
        self, models: Path, parameters: SegmentationParameters, computing: Computing, *, measure: bool
    ) -> None:
        for name in sorted(parameters.model_fields_set - HEEDED):
            raise CommandFailed(f"--{name.replace('_', '-')} needs a gateway; leave out --local", MISUSED)
        try:
            self._segmenter = LocalSegmenter(ModelRegistry.scan(models).get(parameters.model), *computing)
        except RuntimeError as error:
            raise CommandFailed(str(error), MISUSED) from error
        self._parameters, self._measure = parameters, measure
        self._stopping = threading.Event()

    def segment(self, task: Task, progress: OnProgress) -> Outcome:
        """
        Raises:
            FactoryError: what is wrong with the scan.
            Interrupted: :meth:`stop` was called.
        """
        assert task.scan is not None, "a series in an archive needs a gateway"

        def on_window(done: int, total: int) -> None:
            if self._stopping.is_set():
                raise Interrupted
            progress(done / total, "running")

        with scan_file(task.scan) as given, _one_series(given, self._parameters.series_uid) as scan:
            done = self._segmenter.segment(scan, self._parameters, on_window)
            write_labelmap(task.output, done.labels, scan, done.volume.header)
        warn(done.model, done.implausible, str(task.scan))
        if task.preview is not None:
            with whole_file(task.preview) as partial:
                draw_preview(partial, done.volume.data, done.labels, done.volume.spacing_ras_mm, done.volumes_ml)
        return self._outcome(task, done)

    def stop(self) -> None:
        self._stopping.set()

    def _outcome(self, task: Task, done: LocalSegmentation) -> Outcome:
        measured = None
        if self._measure:
            known = self._segmenter.manifest.labels
            measured = label_statistics(done.volume.data, done.labels, known, done.volumes_ml)
        return Outcome(
            scan=str(task.scan),
            output=str(task.output),
            state="segmented",
            model=done.model,
            checkpoint_digest=done.checkpoint_digest,
            device=done.device,
            spacing=done.spacing,
            policy=done.policy,
            conditions=done.conditions,
            volumes_ml=done.volumes_ml,
            implausible=done.implausible,
            notes=done.notes,
            timings_s=done.timings_s,
            labels=measured,
        )


@contextmanager
def _one_series(scan: Path, series_uid: str | None) -> Iterator[Path]:
    """The scan; where a series is named, an archive of just that one, as long as the block lasts.

    Raises:
        MalformedRequest: a series is named, but the scan is not DICOM.
    """
    if series_uid is None:
        yield scan
        return
    if sniff_format(scan) != "dicom":
        raise MalformedRequest("series_uid chooses among DICOM series, but the file is not DICOM; leave it out")
    from unet_factory.volume.dicom import extract_series

    with TemporaryDirectory() as folder:
        series = Path(folder) / "series.zip"
        extract_series(scan, series, series_uid)
        yield series
