"""From a scan to its label map: the one pipeline of worker, validation, evaluation, research and demo.

Native is the rule: the network is made for the scan's spacing and nothing is resampled. Where the policy or the caller
wants another working spacing, the image is resampled to it on the axes that need it, and the logits back.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from monai.inferers import sliding_window_inference
from torch import Tensor
from torch.nn import functional

from unet_factory.domain.postprocessing import AS_GIVEN, Postprocessing
from unet_factory.domain.precision import Precision
from unet_factory.domain.spacing import SpacingPlan, check_working_size
from unet_factory.domain.windows import WINDOW_OVERLAP, count_windows, padded_extents, window_extents
from unet_factory.model.postprocessing import postprocess
from unet_factory.model.preprocessing import resample, zscore

Network = Callable[[Tensor], Tensor]
OnWindow = Callable[[int, int], None]


@dataclass(frozen=True)
class Execution:
    """How the work is done: the part that hardware decides.

    ``window``: voxels (r, a, s) of the largest window given to the network; a scan within it is segmented in one piece.
    ``divisors``: the network takes extents that are multiples of these. With ``stitch_on_host`` only single windows are
    on the device; the volume and the blended logits stay on the host.
    """

    device: torch.device
    window: tuple[int, int, int]
    divisors: tuple[int, ...]
    precision: Precision = "float32"
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
    scan: Tensor,
    plan: SpacingPlan,
    execution: Execution,
    *,
    postprocessing: Postprocessing = AS_GIVEN,
    max_voxels: int | None = None,
    on_window: OnWindow | None = None,
) -> Tensor:
    """The label map of a scan, on its own grid.

    Args:
        network: (1, 1, *space) -> (1, classes, *space) logits, made for ``plan.snapped``, on ``execution.device``.
        scan: (r, a, s) float32, intensities as read, at ``plan.native_mm``, on any device.
        postprocessing: of the label map, as the network's manifest says.
        max_voxels: of the scan at the working spacing; no limit if None.
        on_window: called before each window with (done, total); may raise to stop the work.

    Returns:
        (r, a, s) uint8 class indices, on the CPU.

    Raises:
        VolumeTooLarge: the working spacing is so fine that the scan would exceed ``max_voxels``.
        NoContrast: the intensities are all alike, or further apart than float32 can tell.
    """
    if max_voxels is not None:
        check_working_size(scan.shape, plan, max_voxels)
    home = torch.device("cpu") if execution.stitch_on_host else execution.device
    with torch.inference_mode():
        volume = zscore(resample(scan.to(home), plan.native_mm, plan.working_mm))
        blended = logits(
            placed(network, execution.device, execution.precision, home),
            volume,
            window=execution.window,
            divisors=execution.divisors,
            on_window=on_window,
        )
        del volume
        labels = _largest_class(blended, plan, scan.shape).cpu()
    return postprocess(labels, postprocessing)


def logits(
    network: Network,
    volume: Tensor,
    *,
    window: Sequence[int],
    divisors: Sequence[int],
    on_window: OnWindow | None = None,
) -> Tensor:
    """The logits of a normalised volume: padded to the network's divisors, in windows with Gaussian blending, cropped.

    Args:
        volume: (r, a, s), normalised.

    Returns:
        (classes, r, a, s) float32. The other arguments are as in :func:`segment_scan` and :class:`Execution`.
    """
    padded = pad_to_divisors(volume, divisors)
    extents = window_extents(padded.shape, window, divisors)
    total = count_windows(padded.shape, extents)
    done = 0

    def predict(batch: Tensor) -> Tensor:
        nonlocal done
        if on_window is not None:
            on_window(done, total)
        done += 1
        return network(batch).float()

    blended = sliding_window_inference(
        padded[None, None], extents, sw_batch_size=1, predictor=predict, overlap=WINDOW_OVERLAP, mode="gaussian"
    )
    assert isinstance(blended, Tensor)
    r, a, s = volume.shape
    return blended[0, :, :r, :a, :s]


def pad_to_divisors(volume: Tensor, divisors: Sequence[int]) -> Tensor:
    """Zeros (the mean, after z-scoring) behind the far end of each axis, up to :func:`padded_extents`."""
    extents = padded_extents(volume.shape, divisors)
    missing = [target - extent for target, extent in zip(extents, volume.shape, strict=True)]
    return functional.pad(volume, [0, missing[2], 0, missing[1], 0, missing[0]])


def placed(network: Network, device: torch.device, precision: Precision, home: torch.device | None = None) -> Network:
    """The network, which lies on ``device``, for windows that lie on ``home``, in the precision wanted."""

    def run(window: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16", cache_enabled=False):
            return network(window.to(device)).to(home or device)

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
