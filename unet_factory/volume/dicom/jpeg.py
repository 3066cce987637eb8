"""JPEG, lossy with 8 or 12 bits and lossless, by libjpeg-turbo: a plugin for pydicom's decoders.

Of those that pydicom brings, GDCM's ends the process on damaged data and knows no 12 bits, pylibjpeg-libjpeg's is under
the GPL. libjpeg-turbo takes data that breaks off for complete, so its last marker is looked for here.
"""

from typing import TYPE_CHECKING

import numpy as np
import pydicom.uid as uids
from pydicom.pixels.decoders import base

if TYPE_CHECKING:
    from numpy.typing import NDArray

PLUGIN = "imagecodecs"
SYNTAXES = (uids.JPEGBaseline8Bit, uids.JPEGExtended12Bit, uids.JPEGLossless, uids.JPEGLosslessSV1)
DECODER_DEPENDENCIES = dict.fromkeys(SYNTAXES, (PLUGIN,))
_END_OF_IMAGE = b"\xff\xd9"  # never among encoded pixels, where a zero byte follows each FF
_PADDING_BYTES = 16  # that may follow it: most writers pad with NULs, some with other bytes


def register() -> None:
    """Make the plugin known to pydicom, once."""
    for syntax in SYNTAXES:
        decoder = base.get_decoder(syntax)
        if PLUGIN not in decoder.available_plugins:
            decoder.add_plugin(PLUGIN, (__name__, "decode_frame"))


def is_available(uid: str) -> bool:
    """As pydicom asks."""
    return uid in DECODER_DEPENDENCIES


def decode_frame(source: bytes, runner: base.DecodeRunner) -> bytes:
    """The pixels of one encoded frame, as unsigned numbers of one or two bytes.

    Raises:
        ValueError: truncated, damaged, or of another size than the header says. (What else comes of damage is an
            exception too; pydicom catches any.)
    """
    import imagecodecs  # only a worker decodes

    if _END_OF_IMAGE not in source.rstrip(b"\0")[-len(_END_OF_IMAGE) - _PADDING_BYTES :]:
        raise ValueError("the JPEG data breaks off")
    stored: type[np.uint8 | np.uint16] = np.uint8 if runner.bits_stored <= 8 else np.uint16
    pixels: NDArray[np.uint8 | np.uint16] = np.empty((runner.rows, runner.columns), stored)
    imagecodecs.jpeg8_decode(source, out=pixels)  # into an array of the size that the header says, or not at all
    runner.set_option("bits_allocated", 8 * pixels.itemsize)
    return pixels.tobytes()
