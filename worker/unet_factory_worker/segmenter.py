"""From a scan and a network to a label map on the scan's own grid; knows neither Celery nor HTTP.

Native is the rule: the network is made for the scan's spacing and nothing is resampled. Where the policy or the caller
wants another working spacing, the image is resampled to it on the axes that need it, and the logits back.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unet_factory.domain.manifest import Label
from unet_factory.domain.working_spacing import SpacingPlan, check_working_size
from unet_factory.model.inference import Network, OnWindow, logits
from unet_factory.model.normalisation import zscore
from unet_factory.model.resampling import resample

MM3_PER_ML = 1000.0


@dataclass(frozen=True)
class Execution:
    """How the work is done: the part that hardware decides.

    With ``stitch_on_host`` only single windows are on the device; the volume and the blended logits stay on the host.
    """

    device: torch.device
    window: tuple[int, int, int]
    divisors: tuple[int, ...]
    precision: Literal["float32", "bfloat16"] = "float32"
    stitch_on_host: bool = False

    def reduced(self) -> "Execution":
        """The same in less memory: windows of half the extent, stitched on the host."""
        r, a, s = (
            max(2 * divisor, extent // 2 // divisor * divisor)
            for extent, divisor in zip(self.window, self.divisors, strict=True)
        )
        return Execution(self.device, (r, a, s), self.divisors, self.precision, stitch_on_host=True)


def segment_scan(
    network: Network,
    scan: NDArray[np.float32],
    plan: SpacingPlan,
    execution: Execution,
    *,
    max_voxels: int,
    on_window: OnWindow | None = None,
) -> NDArray[np.uint8]:
    """The label map of a scan, on its own grid.

    Args:
        network: (1, 1, *space) -> (1, classes, *space) logits, made for ``plan.snapped``, on ``execution.device``.
        scan: (r, a, s), intensities as read, at ``plan.native_mm``.
        max_voxels: of the scan at the working spacing.
        on_window: called before each window with (done, total); may raise to stop the work.

    Returns:
        (r, a, s) class indices.

    Raises:
        VolumeTooLarge: the working spacing is so fine that the scan would exceed ``max_voxels``.
    """
    check_working_size(scan.shape, plan, max_voxels)
    home = torch.device("cpu") if execution.stitch_on_host else execution.device
    with torch.inference_mode():
        volume = zscore(resample(torch.from_numpy(scan).to(home), plan.native_mm, plan.working_mm))
        blended = logits(
            _placed(network, execution, home),
            volume,
            window=execution.window,
            divisors=execution.divisors,
            on_window=on_window,
        )
        del volume
        labels = _largest_class(blended, plan, scan.shape)
    result: NDArray[np.uint8] = labels.cpu().numpy()
    return result


def volumes_ml(segmented: NDArray[np.uint8], spacing_mm: Sequence[float], labels: Sequence[Label]) -> dict[str, float]:
    """Millilitres per label name on a grid of ``spacing_mm``, background left out."""
    voxel_ml = math.prod(spacing_mm) / MM3_PER_ML
    return {label.name: np.count_nonzero(segmented == label.value) * voxel_ml for label in labels if label.value != 0}


def _placed(network: Network, execution: Execution, home: torch.device) -> Network:
    """The network for windows that lie on ``home``, in the precision wanted."""

    def run(window: Tensor) -> Tensor:
        with torch.autocast(
            execution.device.type, torch.bfloat16, enabled=execution.precision == "bfloat16", cache_enabled=False
        ):
            return network(window.to(execution.device)).to(home)

    return run


def _largest_class(blended: Tensor, plan: SpacingPlan, shape: Sequence[int]) -> Tensor:
    """Arg max over the classes on the scan's own grid: (classes, r', a', s') logits -> (r, a, s) uint8.

    Class by class with a running maximum, so memory on the scan's grid does not grow with the number of classes.
    """
    best = resample(blended[0], plan.working_mm, plan.native_mm, shape)
    labels = torch.zeros(best.shape, dtype=torch.uint8, device=best.device)
    for value in range(1, blended.shape[0]):
        candidate = resample(blended[value], plan.working_mm, plan.native_mm, shape)
        labels.masked_fill_(candidate > best, value)
        best = torch.maximum(best, candidate)
    return labels
