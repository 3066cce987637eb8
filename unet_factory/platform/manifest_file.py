"""Reading the manifest of a safetensors file without torch: the gateway answers from it, the worker loads by it."""

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from unet_factory.domain.errors import CheckpointInvalid
from unet_factory.domain.manifest import Manifest, StandaloneManifest

MANIFEST_KEY = "unet_factory_manifest"
_MAX_HEADER_BYTES = 100 * 2**20  # the format's own limit


def read_manifest(path: Path) -> Manifest:
    """The manifest of a checkpoint file.

    Raises:
        CheckpointInvalid: no safetensors file or not a whole one, or no valid checkpoint manifest in it.
    """
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if not 0 < size <= _MAX_HEADER_BYTES:
                raise CheckpointInvalid(f"{path.name}: not a safetensors file (header of {size} bytes)")
            header = file.read(size)
        _check_length(path.name, header, path.stat().st_size)
        return Manifest.model_validate_json(_manifest_json(header))
    except (OSError, KeyError, ValueError, ValidationError) as error:
        raise CheckpointInvalid(f"{path.name}: not a valid checkpoint manifest: {error}") from error


def read_standalone_manifest(blob: bytes) -> StandaloneManifest:
    """The manifest of a standalone network's bytes.

    Raises:
        CheckpointInvalid: no safetensors bytes or not all of them, or no valid manifest in them.
    """
    try:
        size = int.from_bytes(blob[:8], "little")
        header = blob[8 : 8 + size]
        _check_length("standalone network", header, len(blob))
        return StandaloneManifest.model_validate_json(_manifest_json(header))
    except (AttributeError, KeyError, TypeError, ValueError, ValidationError) as error:
        raise CheckpointInvalid(f"not a standalone network: {error}") from error


def _check_length(name: str, header: bytes, found: int) -> None:
    """A file that is still being copied has a whole header, and not all of the tensors that the header lists."""
    tensors: dict[str, Any] = json.loads(header)
    ends = (tensor["data_offsets"][1] for tensor_name, tensor in tensors.items() if tensor_name != "__metadata__")
    expected = 8 + len(header) + max(ends, default=0)
    if found != expected:
        raise CheckpointInvalid(f"{name}: the file has {found} bytes, its header says {expected}")


def _manifest_json(header: bytes) -> str:
    parsed: dict[str, Any] = json.loads(header)
    return str(parsed["__metadata__"][MANIFEST_KEY])
