"""Files: the checkpoint of a hypernetwork and the standalone U-Net. safetensors with a JSON manifest, never pickle."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, load_file, save
from torch import Tensor, nn

from unet_factory.domain.conditions import SnappedConditions, snap_conditions
from unet_factory.domain.errors import CheckpointInvalid
from unet_factory.domain.manifest import Manifest, StandaloneManifest
from unet_factory.domain.spacing import SnappedSpacing
from unet_factory.model.ensemble import SegmentingNetwork, joined
from unet_factory.model.hypernetwork import Hypernetwork
from unet_factory.model.unet import UNet, unet_of
from unet_factory.platform.atomic_files import whole_file
from unet_factory.platform.file_digest import FileStamp, file_digest
from unet_factory.platform.manifest_file import MANIFEST_KEY, read_manifest, read_standalone_manifest
from unet_factory.platform.shared_copies import SharedCopies

HEADS = "heads"
"""The last part of the name of the tensors that stay in the type that they are stored in."""

DTYPES: Mapping[str, torch.dtype] = {"float32": torch.float32, "float16": torch.float16}

# of safetensors' format
_STORED_AS = {"float32": "F32", "float16": "F16"}
_LENGTH_BYTES = _ALIGNMENT = 8


@dataclass(frozen=True)
class Checkpoint:
    """The ``members`` of an ensemble, or a single hypernetwork, ready to generate weights, with their manifest and the
    sha256 of their file.
    """

    members: tuple[Hypernetwork, ...]
    manifest: Manifest
    digest: str

    @property
    def hypernetwork(self) -> Hypernetwork:
        """
        Raises:
            CheckpointInvalid: it is an ensemble.
        """
        if len(self.members) > 1:
            raise CheckpointInvalid(
                f"{self.manifest.name} is an ensemble of {len(self.members)} checkpoints; give one of its members"
            )
        return self.members[0]

    def member(self, number: int | None) -> Hypernetwork:
        """
        Raises:
            MemberInvalid: as :meth:`Manifest.check_member`.
        """
        self.manifest.check_member(number)
        return self.members[(number or 1) - 1]

    def unet(self, snapped: SnappedSpacing, conditions: SnappedConditions | None = None) -> SegmentingNetwork:
        """The network for a snapped spacing, ready to segment; those of an ensemble as one."""
        return joined([member.unet(snapped, conditions) for member in self.members])


def save_checkpoint(
    path: Path, hypernetwork: Hypernetwork, manifest: Manifest, *, heads: str = "float32", bias: str = "float32"
) -> str:
    """Write a checkpoint atomically, ``heads`` and ``bias`` stored as these dtypes. Returns its digest."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in hypernetwork.state_dict().items()}
    tensors |= {"heads": tensors["heads"].to(DTYPES[heads]), "bias": tensors["bias"].to(DTYPES[bias])}
    return write_checkpoint(path, tensors, manifest)


def write_checkpoint(path: Path, tensors: dict[str, Tensor], manifest: Manifest) -> str:
    """Write a checkpoint file of these tensors atomically. Returns its digest."""
    blob = save(tensors, {MANIFEST_KEY: manifest.model_dump_json()})
    with whole_file(path) as partial:
        partial.write_bytes(blob)
    return hashlib.sha256(blob).hexdigest()


def replace_manifest(path: Path, manifest: Manifest, target: Path) -> str:
    """Write the checkpoint ``path`` to ``target``, which may be itself, with another manifest; the tensors stay as they
    are, bit for bit. Returns its digest.

    Raises:
        CheckpointInvalid: not a safetensors file.
    """
    try:
        tensors = load(path.read_bytes())
    except SafetensorError as error:
        raise CheckpointInvalid(f"checkpoint {path.name}: {error}") from error
    return write_checkpoint(target, tensors, manifest)


def load_checkpoint(path: Path, device: torch.device | str = "cpu", shared: SharedCopies | None = None) -> Checkpoint:
    """Read a checkpoint; the heads stay as they are stored.

    The file is read into memory rather than mapped: somebody may write over it while its model is in use, which would
    change the weights in mid-job or end the process (SIGBUS). With ``shared``, tensors for a CPU are mapped from a copy
    that nobody writes to, so that the processes that share it hold them in memory once.

    Raises:
        CheckpointInvalid: not a safetensors file, no or wrong manifest, tensors that do not fit it, or a file that
            cannot be read or changes meanwhile.
    """
    device = torch.device(device)
    with _unchanged(path):
        manifest, digest = read_manifest(path), file_digest(path)
        architecture, grid, conditions = manifest.architecture, manifest.grid, manifest.conditions
        with torch.device("meta"):
            members = tuple(Hypernetwork(architecture, shape, grid, conditions) for shape in manifest.hypernetworks)
        all_of_them = nn.ModuleList(members) if manifest.members else members[0]
        copy = shared.copy_of(path, digest) if shared is not None and device.type == "cpu" else None
        try:
            tensors = _mapped(copy) or load_file(path, str(device), backend="pread")
            tensors |= {name: tensor.float() for name, tensor in tensors.items() if not name.endswith(HEADS)}
            all_of_them.load_state_dict(tensors, strict=True, assign=True)
        except (RuntimeError, SafetensorError) as error:
            raise CheckpointInvalid(f"checkpoint {path.name}: {error}") from error
    all_of_them.requires_grad_(False).eval()
    return Checkpoint(members, manifest, digest)


def _mapped(copy: Path | None) -> dict[str, Tensor] | None:
    """None without a copy, or where a worker that has other models has just removed it."""
    with suppress(FileNotFoundError):
        return None if copy is None else load_file(copy)
    return None


@contextmanager
def _unchanged(path: Path) -> Iterator[None]:
    """The file is the same at every step of the block.

    Raises:
        CheckpointInvalid: it was replaced or written to meanwhile, or cannot be read.
    """
    try:
        before = FileStamp.of(path.stat())
        yield
        if FileStamp.of(path.stat()) != before:
            raise CheckpointInvalid(f"checkpoint {path.name}: the file changed while it was read; try again")
    except OSError as error:
        raise CheckpointInvalid(f"checkpoint {path.name}: {error}") from error


def standalone_bytes(
    checkpoint: Checkpoint,
    snapped: SnappedSpacing,
    dtype: str = "float32",
    conditions: SnappedConditions | None = None,
    member: int | None = None,
) -> bytes:
    """The standalone U-Net for a snapped spacing, and conditions or their defaults, as the bytes of a safetensors file;
    equal askers get equal bytes. Of an ensemble, that of one member, from 1 on.

    Raises:
        MemberInvalid: as :meth:`Checkpoint.member`.
    """
    hypernetwork = checkpoint.member(member)
    if conditions is None:
        conditions = snap_conditions(checkpoint.manifest.conditions, {})
    manifest = StandaloneManifest.of(checkpoint.manifest, checkpoint.digest, snapped, conditions).model_copy(
        update={"dtype": dtype, "member": member}
    )
    file, flat = _file_to_fill(hypernetwork.weight_shapes, dtype, manifest)
    hypernetwork.generate_into(flat, snapped, conditions)
    del flat  # while somebody can write to the file, its value is a copy
    return file.getvalue()


def _file_to_fill(shapes: Mapping[str, torch.Size], dtype: str, manifest: StandaloneManifest) -> tuple[BytesIO, Tensor]:
    """A safetensors file that is complete but for its numbers, and a flat tensor of these to write into.

    The library's ``save`` would copy the finished tensors twice.
    """
    header: dict[str, Any] = {"__metadata__": {MANIFEST_KEY: manifest.model_dump_json()}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + shape.numel() * DTYPES[dtype].itemsize
        header[name] = {"dtype": _STORED_AS[dtype], "shape": list(shape), "data_offsets": [start, end]}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % _ALIGNMENT)
    start = _LENGTH_BYTES + len(encoded)
    file = BytesIO(bytes(start + end))
    file.write(len(encoded).to_bytes(_LENGTH_BYTES, "little") + encoded)
    return file, torch.frombuffer(file.getbuffer(), dtype=DTYPES[dtype], offset=start)


def parse_unet(blob: bytes, device: torch.device | str = "cpu") -> UNet:
    """A standalone network from its file's bytes, as :func:`load_unet`.

    Raises:
        CheckpointInvalid: the bytes are damaged or are no standalone network.
    """
    try:
        tensors: dict[str, Tensor] = load(blob)
        manifest = read_standalone_manifest(blob)
        weights = {name: tensor.to(device, torch.float32) for name, tensor in tensors.items()}
        unet = unet_of(weights, manifest.architecture, manifest.spacing)
    except (RuntimeError, SafetensorError) as error:
        raise CheckpointInvalid(f"not a standalone network: {error}") from error
    unet.manifest = manifest
    return unet


def load_unet(path: Path | str, device: torch.device | str = "cpu") -> UNet:
    """A standalone network as a plain float32 ``torch.nn.Module`` in evaluation mode, with its ``manifest``.

    Raises:
        CheckpointInvalid: the file is damaged or not a standalone network.
        OSError: there is no such file.
    """
    return parse_unet(Path(path).read_bytes(), device)
