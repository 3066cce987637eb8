"""The formats, by what ``sniff_format`` calls them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from unet_factory.volume.metaimage import read_metaimage
from unet_factory.volume.nifti import read_nifti
from unet_factory.volume.nrrd import read_nrrd
from unet_factory.volume.sniff import sniff_format
from unet_factory.volume.stored import FileFormat, StoredVolume

_READERS: dict[FileFormat, Callable[[Path], StoredVolume]] = {
    "nifti": read_nifti,
    "mha": read_metaimage,
    "nrrd": read_nrrd,
}


def read_stored(path: Path) -> StoredVolume:
    """Read the header of the file at ``path`` in whichever format it is, without judging spacing, limits or length.

    Raises:
        NotAVolume: no such file, another format, or a header that cannot be read.
        GeometryInvalid: not one 3D volume.
    """
    with np.errstate(all="ignore"):  # numbers beyond all bounds are told by whoever judges the geometry
        return _READERS[sniff_format(path)](path)
