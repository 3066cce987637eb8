"""The processes and devices that a run works on, by Lightning Fabric: one here, or those that torchrun started."""

import os
from collections.abc import Mapping
from typing import Literal

from lightning_fabric import Fabric
from lightning_fabric.utilities.exceptions import MisconfigurationException

from unet_factory.domain.errors import FactoryError
from unet_factory_training.config import TrainingConfig

_PRECISIONS: Mapping[str, Literal["32-true", "bf16-mixed"]] = {"float32": "32-true", "bfloat16": "bf16-mixed"}


class EngineUnavailable(FactoryError):
    """The devices or processes that a run was told to use are not there, or cannot share its work."""

    slug, title = "engine-unavailable", "The run cannot start on these devices"


def start_engine(config: TrainingConfig, device: str | None = None) -> Fabric:
    """Join the processes of this run.

    Args:
        device: cpu, cuda or cuda:N; default: the GPUs if there are any. Under ``torchrun`` each process takes its own.

    Raises:
        EngineUnavailable: there is no such device, or the batches of a step cannot be shared out evenly.
    """
    fabric = _fabric(device or "auto", _PRECISIONS[config.optimisation.precision])
    if config.optimisation.batches_per_step % fabric.world_size:
        raise EngineUnavailable(
            f"optimisation.batches_per_step is {config.optimisation.batches_per_step}; "
            f"it must be a multiple of the {fabric.world_size} processes"
        )
    return fabric


def _fabric(device: str, precision: Literal["32-true", "bf16-mixed"]) -> Fabric:
    accelerator, _, index = device.partition(":")
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    try:
        fabric = Fabric(
            accelerator=accelerator,
            devices=[int(index)] if index else processes,
            num_nodes=int(os.environ.get("GROUP_WORLD_SIZE", "1")),
            strategy="ddp" if processes > 1 or int(os.environ.get("WORLD_SIZE", "1")) > 1 else "auto",
            precision=precision,
        )
        fabric.launch()
    except (MisconfigurationException, RuntimeError, ValueError) as error:
        raise EngineUnavailable(
            f"the device {device} cannot be used: {error}; allowed are cpu and, for existing GPUs, cuda and cuda:N"
        ) from error
    return fabric
