"""What a job cost on this worker, as the store of costs takes it."""

from collections.abc import Mapping

import torch

import unet_factory
from unet_factory.domain.cost_model import Observation
from unet_factory.domain.precision import Precision
from unet_factory.domain.quote import WorkerKind
from unet_factory.domain.workload import Workload
from unet_factory.model.device import processor


def worker_kind(device: torch.device, precision: Precision) -> WorkerKind:
    """What this worker is, as far as prices are concerned."""
    return WorkerKind(
        device=processor(device),
        precision=precision,
        threads=torch.get_num_threads(),
        version=unet_factory.__version__,
    )


def observation(work: Workload, timings_s: Mapping[str, float], *, cached: bool, peak_bytes: int) -> Observation:
    """A job from the times of its stages. Drawing a preview is not part of the price."""

    def together(*stages: str) -> float:
        return sum(timings_s.get(stage, 0.0) for stage in stages)

    return Observation(
        work=work.model_copy(update={"made": not cached}),
        read_s=together("fetch", "load"),
        weights_s=None if cached else together("weights"),
        infer_s=together("infer"),
        write_s=together("write", "dicom"),
        peak_bytes=peak_bytes,
    )
