"""From a scan to its label map: the one pipeline of worker, validation, evaluation, research and demo.

Native is the rule: the network is made for the scan's spacing and nothing is resampled. Where the policy or the caller
wants another working spacing, the image is resampled to it on the axes that need it, and the logits back.

Windows are blended as logits, as elsewhere, unless the network has more classes than features in front of its last
layer. Then the features are blended, and the last layer is applied once to each voxel of the scan.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional

from unet_factory.domain.postprocessing import AS_GIVEN, Postprocessing
from unet_factory.domain.precision import Precision
from unet_factory.domain.spacing import SpacingPlan, check_working_size
from unet_factory.domain.windows import WINDOW_OVERLAP, padded_extents, window_extents
from unet_factory.model.label_map import Head, LabelMapMaker, Predict, Slab, Starts, Windows
from unet_factory.model.postprocessing import postprocess
from unet_factory.model.preprocessing import AxisSampling, resample, zscore
from unet_factory.model.unet import UNet

Network = Callable[[Tensor], Tensor]
OnWindow = Callable[[int, int], None]
Sharing = Callable[[Tensor, Windows, Predict], AbstractContextManager[Predict]]


@dataclass(frozen=True)
class Execution:
    """How the work is done: the part that hardware decides.

    ``window``: voxels (r, a, s) of the largest window given to the network; a scan within it is segmented in one piece.
    ``divisors``: the network takes extents that are multiples of these. With ``stitch_on_host`` only single windows are
    on the device; the volume and the blended logits stay on the host. ``overlap``: the least share of a window that its
    neighbour sees too.
    """

    device: torch.device
    window: tuple[int, int, int]
    divisors: tuple[int, ...]
    precision: Precision = "float32"
    stitch_on_host: bool = False
    overlap: float = WINDOW_OVERLAP

    def reduced(self) -> "Execution":
        """The same in less memory: windows of half the extent that overlap by half, stitched on the host."""
        r, a, s = (
            max(2 * divisor, extent // 2 // divisor * divisor)
            for extent, divisor in zip(self.window, self.divisors, strict=True)
        )
        return replace(self, window=(r, a, s), stitch_on_host=True, overlap=WINDOW_OVERLAP)


def segment_scan(
    network: Network,
    scan: Tensor,
    plan: SpacingPlan,
    execution: Execution,
    *,
    postprocessing: Postprocessing = AS_GIVEN,
    max_voxels: int | None = None,
    on_window: OnWindow | None = None,
    sharing: Sharing | None = None,
) -> Tensor:
    """The label map of a scan, on its own grid.

    Args:
        network: (1, 1, *space) -> (1, classes, *space) logits, made for ``plan.snapped``, on ``execution.device``.
        scan: (r, a, s) float32, intensities as read, at ``plan.native_mm``, on any device.
        postprocessing: of the label map, as the network's manifest says.
        max_voxels: of the scan at the working spacing; no limit if None.
        on_window: called before each window with (done, total); may raise to stop the work.
        sharing: given the padded volume, its windows and what predicts one here, gives for the time of the work what
            predicts one here or elsewhere, to the same bits.

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
        shape, padded = volume.shape, pad_to_divisors(volume, execution.divisors)
        del volume
        samplings = [
            AxisSampling.of(*axis) for axis in zip(shape, scan.shape, plan.working_mm, plan.native_mm, strict=True)
        ]
        extents = window_extents(padded.shape, execution.window, execution.divisors)
        windows = Windows.over(padded.shape, extents, execution.overlap)
        on_windows, head = parts(network)
        run = placed(on_windows, execution.device, execution.precision, home)

        def own(starts: Starts) -> Tensor:
            return predicted(run, padded, starts, extents)

        with nullcontext(own) if sharing is None else sharing(padded, windows, own) as predict:
            told = _Told(predict, on_window)
            maker = LabelMapMaker(
                samplings, shape, windows, lambda starts: told.predict(starts, maker.predictions), head=head
            )
            labels = maker.label_map().cpu()
    return postprocess(labels, postprocessing)


def parts(network: Network) -> tuple[Network, Head | None]:
    """What runs on windows, and the last layer where it is left for what is blended of them: in a network with more
    classes than features in front of that layer.
    """
    if not isinstance(network, UNet) or network.architecture.classes <= network.architecture.channels[0]:
        return network, None
    layer = dict(network.head.named_parameters())
    kernel = layer["weight"].shape[2:]
    return network.features, Head(layer["weight"].unflatten(-1, (kernel[-1], *[1] * (3 - len(kernel)))), layer["bias"])


def logits(
    network: Network,
    volume: Tensor,
    *,
    window: Sequence[int],
    divisors: Sequence[int],
    overlap: float = WINDOW_OVERLAP,
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
    windows = Windows.over(padded.shape, extents, overlap)
    told = _Told(lambda starts: predicted(network, padded, starts, extents), on_window)
    slab = Slab((0, 0, 0), volume.shape, 0, volume.shape[0], windows, volume.device)
    for starts in product(*windows.starts):
        slab.add(starts, told.predict(starts, len(windows)))
    return torch.stack([slab.logits(value, 0, volume.shape[0]) for value in range(slab.classes)])


class _Told:
    """Tells of each window before it is predicted."""

    def __init__(self, predict: Predict, on_window: OnWindow | None) -> None:
        self._predict, self._on_window = predict, on_window
        self._done = 0

    def predict(self, starts: Starts, total: int) -> Tensor:
        """What the network says of the window that starts there, one of ``total``."""
        if self._on_window is not None:
            self._on_window(self._done, total)
        self._done += 1
        return self._predict(starts)


def predicted(network: Network, padded: Tensor, starts: Starts, extents: Sequence[int]) -> Tensor:
    """(channels, *window), in the type that the network gives, of the window of a padded volume at a place."""
    place = tuple(slice(start, start + part) for start, part in zip(starts, extents, strict=True))
    return network(padded[place][None, None])[0].contiguous()


def pad_to_divisors(volume: Tensor, divisors: Sequence[int]) -> Tensor:
    """Zeros (the mean, after z-scoring) behind the far end of each axis, up to :func:`padded_extents`."""
    extents = padded_extents(volume.shape, divisors)
    missing = [target - extent for target, extent in zip(extents, volume.shape, strict=True)]
    if not any(missing):
        return volume
    return functional.pad(volume, [0, missing[2], 0, missing[1], 0, missing[0]])


def placed(network: Network, device: torch.device, precision: Precision, home: torch.device | None = None) -> Network:
    """The network, which lies on ``device``, for windows that lie on ``home``, in the precision wanted."""

    def run(window: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16", cache_enabled=False):
            return network(window.to(device)).to(home or device)

    return run
