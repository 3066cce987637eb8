"""Volumes in and label maps out: NIfTI, MHA, NRRD and DICOM as float32 arrays in RAS+ with a spacing to trust.

Nothing is guessed and nothing is repaired quietly: what a header leaves open is an error that names the numbers.
Every failure is a ``FactoryError``.
"""

from unet_factory.domain.volume_limits import DEFAULT_LIMITS, VolumeLimits
from unet_factory.volume.header import Volume, VolumeHeader
from unet_factory.volume.labelmap import volumes_ml, write_labelmap
from unet_factory.volume.reading import read_header, read_volume, sniff_format

__all__ = [
    "DEFAULT_LIMITS",
    "Volume",
    "VolumeHeader",
    "VolumeLimits",
    "read_header",
    "read_volume",
    "sniff_format",
    "volumes_ml",
    "write_labelmap",
]
