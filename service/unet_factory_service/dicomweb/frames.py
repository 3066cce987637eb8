"""Single frames of a stored object's pixels (PS3.18 section 8.7.3), without decoding: results are never compressed."""

import numpy as np
from fastapi import HTTPException
from pydicom import Dataset


class StoredFrames:
    """Of an object in a native transfer syntax."""

    def __init__(self, instance: Dataset) -> None:
        """
        Raises:
            HTTPException: 404, it has no pixels, as a report.
        """
        if "PixelData" not in instance:
            raise HTTPException(404, "the instance has no frames")
        self.count = int(instance.get("NumberOfFrames") or 1)
        self._pixels: bytes = instance.PixelData
        self._bits = instance.Rows * instance.Columns * instance.SamplesPerPixel * instance.BitsAllocated

    def frame(self, number: int) -> bytes:
        """One frame, counted from 1; of single bits, it starts in a byte of its own, though it is not stored so."""
        start, end = (number - 1) * self._bits, number * self._bits
        held = self._pixels[start // 8 : (end + 7) // 8]
        if start % 8 == 0 and end % 8 == 0:
            return held
        bits = np.unpackbits(np.frombuffer(held, np.uint8), bitorder="little")[start % 8 :][: self._bits]
        return np.packbits(bits, bitorder="little").tobytes()
