"""Test-time mirroring: the mean of what a network says of a window and of its mirror images (Isensee et al., Nature
Methods 18:203, 2021)."""

from collections.abc import Callable, Sequence
from itertools import combinations

from torch import Tensor

from unet_factory.domain.plausibility import AXES, Axis

_FIRST_AXIS = 2  # behind batch and channels


def mirrored(network: Callable[[Tensor], Tensor], axes: Sequence[Axis]) -> Callable[[Tensor], Tensor]:
    """A network that runs ``network`` on every mirror image along ``axes``, 2 to the power of their number, and gives
    the mean of the logits; without axes, ``network`` itself.

    Args:
        network: (batch, channels, r, a, s) -> (batch, classes, r, a, s) logits.
    """
    if not axes:
        return network
    places = [_FIRST_AXIS + AXES.index(axis) for axis in axes]
    images = [flipped for count in range(1, len(places) + 1) for flipped in combinations(places, count)]

    def run(window: Tensor) -> Tensor:
        total = network(window).float()
        for flipped in images:
            total += network(window.flip(flipped)).flip(flipped)
        return total.div_(len(images) + 1)

    return run
