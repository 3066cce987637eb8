"""The files that a job makes, each put into the blob store as soon as it is whole."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unet_factory.domain.jobs import PREVIEW_NAME, SegmentationRequest
from unet_factory.volume import Volume, VolumeHeader, write_labelmap
from unet_factory.volume.dicom import DicomSeries
from unet_factory.volume.preview import draw_preview
from unet_factory_worker.child import WorkerContext
from unet_factory_worker.dicom_results import Provenance, write_dicom_results
from unet_factory_worker.lease import JobLost


@dataclass(frozen=True)
class ResultFiles:
    """Of one job in the hands of ``owner``. Every method raises JobLost when the job is no longer the owner's."""

    job_id: str
    owner: str
    request: SegmentationRequest
    context: WorkerContext

    def write_labelmap(self, name: str, labels: NDArray[np.uint8], source: Path, header: VolumeHeader) -> None:
        with self.context.blobs.scratch() as folder:
            write_labelmap(folder / name, labels, source, header, durable=False)  # the store sees to that
            self._put(folder / name)

    def draw_preview(self, volume: Volume, labels: NDArray[np.uint8], found_ml: Mapping[str, float]) -> None:
        with self.context.blobs.scratch() as folder:
            draw_preview(folder / PREVIEW_NAME, volume.data, labels, volume.spacing_ras_mm, found_ml)
            self._put(folder / PREVIEW_NAME)

    def write_dicom(
        self, labels: NDArray[np.uint8], found_ml: Mapping[str, float], series: DicomSeries, provenance: Provenance
    ) -> None:
        seg_type = self.request.seg_type
        with self.context.blobs.scratch() as folder:
            for result in write_dicom_results(folder, labels, found_ml, series, provenance, seg_type):
                self._put(result)

    def _put(self, result: Path) -> None:
        if not self.context.lifecycle.renew(self.job_id, self.owner, self.context.settings.lease_s):
            raise JobLost
        self.context.blobs.put(self.job_id, result.name, result)
