"""What an operator can set for the worker alone."""

from typing import Literal

from pydantic import Field

from unet_factory.platform.settings import Settings


class WorkerSettings(Settings):
    device: str = Field(default="auto", description="`auto`, `cpu`, `cuda` or `cuda:N`.")
    threads: int = Field(default=0, description="CPU threads of a worker; 0: as many as there are cores.")
    device_cache_networks: int = Field(default=16, description="Networks that are kept ready on the device.")
    presence_s: float = Field(
        default=3.0, ge=1, description="How long a worker counts as up after it last said so; readiness depends on it."
    )
    precision: Literal["float32", "bfloat16"] = Field(
        default="float32", description="`float32` or `bfloat16`: the precision of the networks' arithmetic."
    )
