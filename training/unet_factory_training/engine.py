"""The processes and devices that a run works on, by Lightning Fabric: one here, or those that torchrun started."""

import os
from collections.abc import Mapping
from typing import Literal

from lightning_fabric import Fabric

from unet_factory_training.config import TrainingConfig

_PRECISIONS: Mapping[str, Literal["32-true", "bf16-mixed"]] = {"float32": "32-true", "bfloat16": "bf16-mixed"}


def start_engine(config: TrainingConfig, device: str | None = None) -> Fabric:
    """Join the processes of this run.

    Args:
        device: cpu, cuda or cuda:N; default: the GPUs if there are any. Under ``torchrun`` each process takes its own.

    Raises:
        ValueError: the batches of a step cannot be shared out evenly.
    """
    accelerator, _, index = (device or "auto").partition(":")
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    fabric = Fabric(
        accelerator=accelerator,
        devices=[int(index)] if index else processes,
        num_nodes=int(os.environ.get("GROUP_WORLD_SIZE", "1")),
        strategy="ddp" if processes > 1 or int(os.environ.get("WORLD_SIZE", "1")) > 1 else "auto",
        precision=_PRECISIONS[config.optimisation.precision],
    )
    fabric.launch()
    if config.optimisation.batches_per_step % fabric.world_size:
        raise ValueError(
            f"optimisation.batches_per_step is {config.optimisation.batches_per_step}, "
            f"must be a multiple of the {fabric.world_size} processes"
        )
    return fabric
