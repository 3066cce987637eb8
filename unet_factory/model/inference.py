"""From a volume to a label map: pad to the network's divisor, windows with Gaussian blending, crop, argmax."""

from collections.abc import Callable, Sequence

import torch
from monai.inferers import sliding_window_inference
from torch import Tensor
from torch.nn import functional

WINDOW_OVERLAP = 0.5

Network = Callable[[Tensor], Tensor]
OnWindow = Callable[[int, int], None]


def segment(
    network: Network,
    volume: Tensor,
    *,
    window: Sequence[int],
    divisors: Sequence[int],
    on_window: OnWindow | None = None,
) -> Tensor:
    """The label map of a normalised volume, on the volume's own grid.

    Args:
        network: (1, 1, *space) -> (1, classes, *space) logits.
        volume: (r, a, s), normalised, on the network's device.
        window: extents of the largest window given to the network; a volume within it is segmented in one piece.
        divisors: the network wants extents that are multiples of these.
        on_window: called before each window with (done, total); may raise to stop the work.

    Returns:
        (r, a, s) uint8 class indices.
    """
    return logits(network, volume, window=window, divisors=divisors, on_window=on_window).argmax(dim=0).to(torch.uint8)


def logits(
    network: Network,
    volume: Tensor,
    *,
    window: Sequence[int],
    divisors: Sequence[int],
    on_window: OnWindow | None = None,
) -> Tensor:
    """As :func:`segment`, but the blended logits: (classes, r, a, s)."""
    padded = pad_to_divisors(volume, divisors)
    extents = [
        min(whole, _round_up(part, divisor))
        for whole, part, divisor in zip(padded.shape, window, divisors, strict=True)
    ]
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
    """Zeros (the mean, after z-scoring) behind the far end of each axis, up to a multiple of its divisor.

    Two multiples on the first axis where all would be one: instance norm needs more than one voxel at the bottom.
    """
    extents = [_round_up(extent, divisor) for extent, divisor in zip(volume.shape, divisors, strict=True)]
    if extents == list(divisors):
        extents[0] *= 2
    missing = [target - extent for target, extent in zip(extents, volume.shape, strict=True)]
    return functional.pad(volume, [0, missing[2], 0, missing[1], 0, missing[0]])


def count_windows(extents: Sequence[int], window: Sequence[int]) -> int:
    """How many windows :func:`segment` will run, following the blending library's own layout."""
    count = 1
    for whole, part in zip(extents, window, strict=True):
        step = max(1, int(part * (1 - WINDOW_OVERLAP))) if part < whole else part
        count *= 1 if part >= whole else -(-(whole - part) // step) + 1
    return count


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
