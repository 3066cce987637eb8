"""Several checkpoints that answer as one, such as the folds of a cross-validation: scored together, or in one file."""

from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import load
from torch import Tensor, nn

from unet_factory.domain.conditions import SnappedConditions
from unet_factory.domain.errors import CheckpointInvalid
from unet_factory.domain.manifest import Manifest, Member
from unet_factory.domain.plausibility import Axis
from unet_factory.domain.spacing import SnappedSpacing
from unet_factory.model.checkpoint import Checkpoint, load_checkpoint, write_checkpoint
from unet_factory.model.ensemble import SegmentingNetwork, joined
from unet_factory.model.mirroring import mirrored

_ALIKE = ("labels", "architecture", "grid", "conditions", "preprocessing", "mirrored_axes")


class Ensemble:
    """Makes networks as a checkpoint does, each of one network from every checkpoint, mirrored along ``axes``.

    Raises:
        CheckpointInvalid: the checkpoints were not made for the same task.
    """

    def __init__(self, checkpoints: Sequence[Checkpoint], axes: Sequence[Axis] = ()) -> None:
        check_alike([checkpoint.manifest for checkpoint in checkpoints], "one ensemble")
        self._members = [member for checkpoint in checkpoints for member in checkpoint.members]
        self._axes = tuple(axes)

    def unet(self, snapped: SnappedSpacing, conditions: SnappedConditions | None = None) -> "MirroredNetwork":
        """The networks for a snapped spacing, as one that is ready to segment."""
        return MirroredNetwork(joined([member.unet(snapped, conditions) for member in self._members]), self._axes)


class MirroredNetwork(nn.Module):
    """A network with its mirror images: :func:`mirrored`, as a module."""

    def __init__(self, network: SegmentingNetwork, axes: Sequence[Axis]) -> None:
        super().__init__()
        self.network, self.divisors = network, network.divisors
        self._run = mirrored(network, axes)

    def forward(self, window: Tensor) -> Tensor:
        """(batch, channels, r, a, s) -> (batch, classes, r, a, s) logits."""
        return self._run(window)


def write_ensemble(paths: Sequence[Path], target: Path, name: str | None = None) -> str:
    """Put the checkpoints ``paths`` into one file, which is served as one model. Returns its digest.

    It is used as the first of them says: windows, postprocessing, what training saw. Figures of a single member would
    be wrong for all of them together, so there are none until the file is evaluated.

    Args:
        name: of the model; by default the first one's.

    Raises:
        CheckpointInvalid: fewer than two; one is no checkpoint, or an ensemble itself; or they were not made for the
            same task.
    """
    if len(paths) < 2:
        raise CheckpointInvalid(f"an ensemble needs two checkpoints or more; {len(paths)} was given")
    checkpoints = [load_checkpoint(path) for path in paths]
    manifests = [checkpoint.manifest for checkpoint in checkpoints]
    check_alike(manifests, "one ensemble")
    members = tuple(Member(digest=one.digest, hypernetwork=one.hypernetwork.shape) for one in checkpoints)
    if len({member.digest for member in members}) < len(members):
        raise CheckpointInvalid("two of the files hold the same checkpoint; give each member once")
    changes = {"name": name or manifests[0].name, "members": members, "metrics": (), "dice_by_spacing": None}
    manifest = Manifest.model_validate(manifests[0].model_dump() | changes)
    tensors = {
        f"{number}.{tensor_name}": tensor
        for number, path in enumerate(paths)
        for tensor_name, tensor in load(path.read_bytes()).items()
    }
    return write_checkpoint(target, tensors, manifest)


def check_alike(manifests: Sequence[Manifest], what: str, also: Sequence[str] = ()) -> None:
    """
    Args:
        what: they cannot be, if they differ.
        also: parts of the manifest that must be alike besides those of the task.

    Raises:
        CheckpointInvalid: they were not made for the same task.
    """
    first, *others = manifests
    for other in others:
        if unlike := [name for name in (*_ALIKE, *also) if getattr(other, name) != getattr(first, name)]:
            raise CheckpointInvalid(
                f"{first.name} and {other.name} cannot be {what}: they differ in {', '.join(unlike)}"
            )
