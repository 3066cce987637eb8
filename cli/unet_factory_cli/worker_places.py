"""Where each of several workers on one machine computes: on a GPU of its own, or on its share of the cores."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping

from unet_factory.platform.settings import variable
from unet_factory_cli.failures import CommandFailed

_COUNT_GPUS = "import torch; print(torch.cuda.device_count())"
_COUNTED_WITHIN_S = 120.0

DEVICE, THREADS, METRICS_PORT = (variable(field) for field in ("device", "threads", "metrics_port"))


def worker_places(
    workers: int, environment: Mapping[str, str], count_gpus: Callable[[], int]
) -> Iterator[dict[str, str]]:
    """What to add to the environment of each worker.

    A worker that is alone, and a device or number of threads that the operator names, stay as they are. Metrics of all
    workers lie in one folder, so the first worker alone shows them.

    Args:
        count_gpus: asked only if workers are to be spread over GPUs.
    """
    spread = workers > 1 and environment.get(DEVICE, "auto") in ("auto", "cuda")
    gpus = count_gpus() if spread else 0
    threads = max(1, (os.cpu_count() or 1) // workers)
    for number in range(workers):
        place = {}
        if workers > 1 and THREADS not in environment:
            place[THREADS] = str(threads)
        if gpus:
            place[DEVICE] = f"cuda:{number % gpus}"
        if number:
            place[METRICS_PORT] = "0"
        yield place


def visible_gpus() -> int:
    """The GPUs as the workers will count them: ``CUDA_VISIBLE_DEVICES`` is heeded, and torch without CUDA sees none.

    In a process of its own: torch is large, and whoever starts processes must not touch CUDA.

    Raises:
        CommandFailed: torch does not say it.
    """
    try:
        counted = subprocess.run(
            [sys.executable, "-c", _COUNT_GPUS], capture_output=True, text=True, timeout=_COUNTED_WITHIN_S, check=True
        )
        return int(counted.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise CommandFailed(
            f"torch does not say how many GPUs there are: {error}; set {DEVICE} to cpu, cuda:0 or another device"
        ) from error
