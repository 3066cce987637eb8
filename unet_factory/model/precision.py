"""Which arithmetic networks run in: as set, or the faster one on this device, found by trying both."""

import logging
import time
from typing import Literal

import torch
from torch import Tensor

from unet_factory.domain.precision import Precision
from unet_factory.domain.spacing import SnappedSpacing
from unet_factory.model.checkpoint import Checkpoint
from unet_factory.model.inference import placed
from unet_factory.model.unet import UNet

log = logging.getLogger(__name__)

_ROUNDS = 2
_GAIN = 0.8
_TRIAL_EXTENT = {"cpu": 32, "cuda": 96}  # large enough that arithmetic, not launching it, takes the time


def pick_precision(wanted: Precision | Literal["auto"], checkpoint: Checkpoint, device: torch.device) -> Precision:
    """``auto`` takes bfloat16 where the device computes in it and a network of ``checkpoint`` is a fifth faster in it.

    On the validation scans of the shipped models both give the same label in more than .999 of all voxels.
    """
    if wanted != "auto":
        return wanted
    if not _computes_in_bfloat16(device):
        log.info("precision float32: %s does not compute in bfloat16", device)
        return "float32"
    float32_s, bfloat16_s = _trial(checkpoint, device)
    picked: Precision = "bfloat16" if bfloat16_s < _GAIN * float32_s else "float32"
    log.info("precision %s: a trial took %.0f ms in float32, %.0f in bfloat16", picked, *_ms(float32_s, bfloat16_s))
    return picked


def _computes_in_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _trial(checkpoint: Checkpoint, device: torch.device) -> tuple[float, float]:
    """The shortest of a few times, taken in turns, of one window in float32 and in bfloat16, in seconds.

    On a CPU they are seconds of CPU time: on the clock, what else runs there while the worker starts would decide.
    """
    unet = checkpoint.members[0].unet(SnappedSpacing(*checkpoint.manifest.grid.min_um))
    extent = _TRIAL_EXTENT[device.type]
    window = torch.randn([1, 1, *(-(-extent // divisor) * divisor for divisor in unet.divisors)], device=device)
    times: dict[Precision, list[float]] = {"float32": [], "bfloat16": []}
    for _ in range(1 + _ROUNDS):
        for precision, taken in times.items():
            taken.append(_seconds(unet, window, precision))
    return min(times["float32"][1:]), min(times["bfloat16"][1:])


def _seconds(unet: UNet, window: Tensor, precision: Precision) -> float:
    clock = time.process_time if window.device.type == "cpu" else time.perf_counter
    started = clock()
    with torch.inference_mode():
        float(placed(unet, window.device, precision)(window).sum())  # a number is there when the device has finished
    return clock() - started


def _ms(*seconds: float) -> tuple[float, ...]:
    return tuple(1000 * value for value in seconds)
