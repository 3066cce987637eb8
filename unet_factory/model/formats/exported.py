"""Networks as programs of ``torch.export``, with any spatial extents; the file format ``pt2``."""

import io
import threading
from functools import lru_cache

import torch
from safetensors.torch import load
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.nn.utils import parametrize

from unet_factory.domain.manifest import Architecture, Strides
from unet_factory.model.formats.facts import facts_of
from unet_factory.model.plain_unet import PlainUNet
from unet_factory.platform.manifest_file import read_standalone_manifest

_EXPORTING = threading.Lock()
_EXAMPLE_MULTIPLE = 3  # no extent of the example may look like a constant


def pt2_bytes(standalone: bytes, identity: str) -> bytes:
    """A file for ``torch.export.load(...).module()``: (1, channels, *space) -> (1, classes, *space), float32."""
    manifest, tensors = read_standalone_manifest(standalone), load(standalone)
    half = manifest.dtype == "float16"
    with _EXPORTING:
        program = exported_unet(manifest.architecture, manifest.strides or (), half=half)
        held = program.state_dict
        for name, tensor in tensors.items():
            held[_stored_name(name) if half else name].copy_(tensor)
        file = io.BytesIO()
        torch.export.save(program, file, extra_files=facts_of(manifest, identity))
    return file.getvalue()


@lru_cache(maxsize=8)
def exported_unet(architecture: Architecture, strides: Strides, *, half: bool = False) -> ExportedProgram:
    """The topology as a program whose weights are yet to be filled in. Exporting takes seconds, filling milliseconds.

    ``half``: weights are stored as float16 and widened to float32 in the program.
    """
    unet = PlainUNet(
        dimensions=architecture.dimensions,
        in_channels=architecture.in_channels,
        classes=architecture.classes,
        channels=architecture.channels,
        blocks=architecture.blocks,
        strides=strides,
    )
    for parameter in unet.parameters():  # exporters join weights that are equal, such as those of new norms
        nn.init.normal_(parameter)
    if half:
        _store_as_half(unet)
    unet.requires_grad_(False).eval()
    extents = [max(divisor * _EXAMPLE_MULTIPLE, 5) for divisor in unet.divisors]
    dims = {
        axis + 2: _dim(name, divisor) for axis, (name, divisor) in enumerate(zip("ras", unet.divisors, strict=False))
    }
    example = torch.zeros(1, architecture.in_channels, *extents)
    return torch.export.export(unet, (example,), dynamic_shapes=(dims,))


def _dim(name: str, divisor: int) -> object:
    multiple = Dim(name, min=1)
    return multiple if divisor == 1 else divisor * multiple


class _Widen(nn.Module):
    """A stored float16 tensor as the float32 that is computed with."""

    def forward(self, stored: Tensor) -> Tensor:
        return stored.float()


def _store_as_half(unet: nn.Module) -> None:
    unet.half()
    for module in list(unet.modules()):
        for name, _ in list(module.named_parameters(recurse=False)):
            parametrize.register_parametrization(module, name, _Widen(), unsafe=True)


def _stored_name(name: str) -> str:
    """Where ``torch.nn.utils.parametrize`` keeps the original of a parameter."""
    module, _, parameter = name.rpartition(".")
    return f"{module}.parametrizations.{parameter}.original"
