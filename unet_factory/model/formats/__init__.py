"""A standalone network in other formats, each made from the bytes of its safetensors file.

Every file carries the network's manifest and its identity in plain bytes, so that whoever stores it can tell which
network it is without reading the format.
"""

from collections.abc import Callable

from unet_factory.domain.jobs import NetworkFormat
from unet_factory.model.formats.bundle import bundle_bytes
from unet_factory.model.formats.exported import pt2_bytes
from unet_factory.model.formats.onnx_file import onnx_bytes

_WRITERS: dict[str, Callable[[bytes, str], bytes]] = {"onnx": onnx_bytes, "pt2": pt2_bytes, "bundle": bundle_bytes}


def in_format(standalone: bytes, file_format: NetworkFormat, identity: str) -> bytes:
    """The file of ``file_format`` for the network whose safetensors file is ``standalone``.

    Args:
        identity: what the network's bytes are stored under.
    """
    return standalone if file_format == "safetensors" else _WRITERS[file_format](standalone, identity)
