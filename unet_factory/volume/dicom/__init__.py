"""DICOM series as volumes: single-frame and enhanced multi-frame images, together in a zip archive or one bare file.

Importing this imports pydicom; ``unet_factory.volume`` does so only when it meets a DICOM file.
"""

from unet_factory.volume.dicom.objects import DicomObject, read_object
from unet_factory.volume.dicom.packing import dicom_files, extract_series, pack_series
from unet_factory.volume.dicom.series import DicomSeries, DicomVolume, read_series, read_series_volume

__all__ = [
    "DicomObject",
    "DicomSeries",
    "DicomVolume",
    "dicom_files",
    "extract_series",
    "pack_series",
    "read_object",
    "read_series",
    "read_series_volume",
]
