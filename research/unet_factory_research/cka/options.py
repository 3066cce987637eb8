"""What an analysis looks at, as one frozen value; by default what the paper looks at (section 4.3)."""

import numpy as np
from pydantic import Field

from unet_factory.domain.frozen import Frozen
from unet_factory.domain.spacing import SnappedSpacing, SpacingGrid, SpacingMm
from unet_factory_research.cka.hsic import FEWEST_SAMPLES, Estimator
from unet_factory_training.datasets import Split


class CkaOptions(Frozen):
    """``finest_mm`` to ``coarsest_mm`` in ``steps`` equal steps are the spacings, drawn into the trained range; the
    first is the one that the others are compared with.

    ``crop_mm``: extent of a crop. ``crops``: how many of each scan. ``batch``: how many scans a mini-batch of CKA has
    at least, where there are so many; crops of one scan never meet in a batch.
    """

    split: Split = "validation"
    finest_mm: SpacingMm = (1.0, 1.0, 1.0)
    coarsest_mm: SpacingMm = (2.0, 2.0, 2.0)
    steps: int = Field(default=11, ge=2)
    crop_mm: float = Field(default=32.0, gt=0)
    crops: int = Field(default=1, ge=1)
    batch: int = Field(default=16, ge=FEWEST_SAMPLES)
    estimator: Estimator = "unbiased"
    seed: int = 0

    def spacings(self, grid: SpacingGrid) -> list[SnappedSpacing]:
        """The spacings on a model's grid, finest first, each once."""
        drawn = np.linspace(self.finest_mm, self.coarsest_mm, self.steps).tolist()
        return list(dict.fromkeys(grid.clamp(grid.snap(mm)) for mm in drawn))

    def along_mm(self, spacings: list[SnappedSpacing]) -> list[float]:
        """The spacings as one number each, for linear models: that of the axis that changes most."""
        changes = [abs(last - first) for first, last in zip(spacings[0], spacings[-1], strict=True)]
        axis = changes.index(max(changes))
        return [spacing.mm[axis] for spacing in spacings]


def spacing_text(spacing_mm: SpacingMm) -> str:
    """``1 mm``, or ``1x1x5 mm`` where the axes (R, A, S) differ."""
    values = [f"{mm:g}" for mm in spacing_mm]
    return f"{values[0] if len(set(values)) == 1 else 'x'.join(values)} mm"
