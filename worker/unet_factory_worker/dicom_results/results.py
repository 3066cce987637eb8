"""From a label map to the files of its DICOM results."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unet_factory.domain.jobs import REPORT_NAME, SEG_NAME
from unet_factory.domain.segmentation_parameters import SegmentationType
from unet_factory.volume.dicom import DicomSeries
from unet_factory.volume.geometry import as_stored
from unet_factory_worker.dicom_results.finishing import save
from unet_factory_worker.dicom_results.measurement_report import build_report
from unet_factory_worker.dicom_results.provenance import Provenance
from unet_factory_worker.dicom_results.segmentation import build_segmentation, segment_numbers


def write_dicom_results(
    folder: Path,
    labels_ras: NDArray[np.uint8],
    volumes_ml: Mapping[str, float],
    series: DicomSeries,
    provenance: Provenance,
    seg_type: SegmentationType = "binary",
) -> list[Path]:
    """Write what is to be delivered, in this order, to ``folder``, and say where.

    A segmentation has no empty segments, and there is none at all where nothing was found; the report names every
    label, with 0 ml where it was not found.

    Args:
        labels_ras: (r, a, s) on the grid of ``series``.
        volumes_ml: by label name.

    Raises:
        DicomIncomplete: the scan's images lack identifiers that results must refer to.
    """
    series.header.check_referable()
    labelmap = as_stored(labels_ras, series.header.affine)
    occurring = np.bincount(labels_ras.ravel(), minlength=256) > 0
    found = [label for label in provenance.labels if label.value != 0 and occurring[label.value]]
    numbers = segment_numbers(found, seg_type)
    segmentation = build_segmentation(labelmap, series, provenance, found, seg_type) if found else None
    report = build_report(volumes_ml, series, provenance, segmentation, numbers)
    written = []
    for name, result in ((SEG_NAME, segmentation), (REPORT_NAME, report)):
        if result is not None:
            written.append(folder / name)
            save(result, written[-1])
    return written
