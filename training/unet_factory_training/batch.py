"""What a step is made of."""

from dataclasses import dataclass

from torch import Tensor

from unet_factory.domain.conditions import SnappedConditions
from unet_factory.domain.spacing import SnappedSpacing


@dataclass(frozen=True)
class Batch:
    """``images`` (batch, 1, r, a, s) float32, ``labels`` (batch, 1, r, a, s) int64, one spacing and the same
    conditions for all.

    ``coarser``: the same crops at a second spacing, where there is one (``coarser_view.py``).
    """

    images: Tensor
    labels: Tensor
    spacing: SnappedSpacing
    names: tuple[str, ...]
    conditions: SnappedConditions = ()
    coarser: "Batch | None" = None

    @property
    def views(self) -> tuple["Batch", ...]:
        """Itself, then the same crops at the coarser spacing if there is one."""
        return (self,) if self.coarser is None else (self, self.coarser)
