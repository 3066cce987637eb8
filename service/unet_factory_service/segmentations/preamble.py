"""What may precede the first part of a multipart body (RFC 2046 section 5.1.1); python-multipart refuses it."""

import re

from unet_factory.domain.errors import MalformedRequest

MAX_BYTES = 2**16


class Preamble:
    """Leaves out all before the first line that is a delimiter, and the padding at that line's end."""

    def __init__(self, boundary: bytes) -> None:
        self._delimiter = re.compile(rb"\r\n(--" + re.escape(boundary) + rb")(?:[ \t]*(?=\r\n)|(?=--))")
        self._held = bytearray(b"\r\n")  # the body's first line has none before it
        self._is_past = False

    def strip(self, data: bytes) -> bytes:
        """What of the next piece of the body is to be parsed.

        Raises:
            MalformedRequest: no delimiter has come in the first 64 KiB.
        """
        if self._is_past:
            return data
        self._held += data
        found = self._delimiter.search(self._held)
        if found is None:
            if len(self._held) > MAX_BYTES:
                raise MalformedRequest(f"the multipart body's boundary does not come in its first {MAX_BYTES} bytes")
            return b""
        self._is_past = True
        return found[1] + bytes(self._held[found.end() :])
