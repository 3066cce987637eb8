"""Several checkpoints that answer as one, such as the folds of a cross-validation, with or without mirroring."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from unet_factory.domain.conditions import SnappedConditions
from unet_factory.domain.errors import CheckpointInvalid
from unet_factory.domain.plausibility import Axis
from unet_factory.domain.spacing import SnappedSpacing
from unet_factory.model.checkpoint import Checkpoint
from unet_factory.model.mirroring import mirrored
from unet_factory.model.unet import UNet

_ALIKE = ("labels", "architecture", "grid", "conditions", "preprocessing")
_LEAST_SHARE = 1e-12  # whose logarithm is still finite


class Ensemble:
    """Makes networks as a hypernetwork does, each of one network from every checkpoint, mirrored along ``axes``.

    Raises:
        CheckpointInvalid: the checkpoints were not made for the same task.
    """

    def __init__(self, checkpoints: Sequence[Checkpoint], axes: Sequence[Axis] = ()) -> None:
        first, *others = (checkpoint.manifest for checkpoint in checkpoints)
        for other in others:
            if unlike := [name for name in _ALIKE if getattr(other, name) != getattr(first, name)]:
                raise CheckpointInvalid(
                    f"{first.name} and {other.name} cannot be one ensemble: they differ in {', '.join(unlike)}"
                )
        self._members, self._axes = [checkpoint.hypernetwork for checkpoint in checkpoints], tuple(axes)

    def unet(self, snapped: SnappedSpacing, conditions: SnappedConditions | None = None) -> "EnsembleNetwork":
        """The networks for a snapped spacing, as one that is ready to segment."""
        return EnsembleNetwork([member.unet(snapped, conditions) for member in self._members], self._axes)


class EnsembleNetwork(nn.Module):
    """(batch, channels, r, a, s) -> (batch, classes, r, a, s): the logarithm of the members' mean probabilities, as
    nnU-Net joins its folds; of a single member the logits as they are.
    """

    def __init__(self, members: Sequence[UNet], axes: Sequence[Axis]) -> None:
        super().__init__()
        self.members, self.divisors = nn.ModuleList(members), members[0].divisors
        self._networks = [mirrored(member, axes) for member in members]

    def forward(self, window: Tensor) -> Tensor:
        logits = [network(window) for network in self._networks]
        if len(logits) == 1:
            return logits[0]
        probabilities = torch.stack([each.float().softmax(dim=1) for each in logits])
        return probabilities.mean(dim=0).clamp(min=_LEAST_SHARE).log()
