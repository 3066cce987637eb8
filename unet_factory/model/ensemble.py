"""Several networks that segment as one: the members of an ensemble, such as the folds of a cross-validation."""

from collections.abc import Sequence

from torch import Tensor, nn

from unet_factory.model.unet import UNet

_LEAST_SHARE = 1e-12  # whose logarithm is still finite


class EnsembleNetwork(nn.Module):
    """(batch, channels, r, a, s) -> (batch, classes, r, a, s): the logarithm of the mean of the members' probabilities
    (Isensee et al., Nature Methods 18:203, 2021), float32.

    ``members`` are networks of one architecture for one spacing; one at least.
    """

    def __init__(self, members: Sequence[UNet]) -> None:
        super().__init__()
        self.members, self.divisors = nn.ModuleList(members), members[0].divisors

    def forward(self, window: Tensor) -> Tensor:
        """One member after the other, so that the activations of a single one are held."""
        first, *others = self.members
        total: Tensor = first(window).float().softmax(dim=1)
        for member in others:
            total += member(window).float().softmax(dim=1)
        return total.div_(len(self.members)).clamp_(min=_LEAST_SHARE).log_()


SegmentingNetwork = UNet | EnsembleNetwork


def joined(members: Sequence[UNet]) -> SegmentingNetwork:
    """The members as one network; a single one as it is."""
    return members[0] if len(members) == 1 else EnsembleNetwork(members)
