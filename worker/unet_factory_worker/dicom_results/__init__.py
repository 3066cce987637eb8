"""DICOM results beside a DICOM scan: a segmentation object and a measurement report in the scan's own study."""

from unet_factory_worker.dicom_results.provenance import Provenance
from unet_factory_worker.dicom_results.results import write_dicom_results

__all__ = ["Provenance", "write_dicom_results"]
