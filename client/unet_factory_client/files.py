"""What the caller sends: a scan's file, a folder of DICOM files, or an image in memory, as one file."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Union

if TYPE_CHECKING:
    from nibabel.spatialimages import SpatialImage

Target = str | os.PathLike[str]
Scan = Union[Target, "SpatialImage"]


@contextmanager
def one_file(scan: Scan) -> Iterator[Path]:
    """A path to the scan as one file, as long as the block lasts.

    Raises:
        NotAVolume: a folder without a DICOM file.
    """
    if isinstance(scan, str | os.PathLike) and not Path(scan).is_dir():
        yield Path(scan)
        return
    from unet_factory.volume.images import scan_file  # needs the extra `volume`

    with scan_file(scan) as path:
        yield path
