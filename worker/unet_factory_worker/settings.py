"""What an operator can set for the worker alone."""

from typing import Literal

from pydantic import Field, field_validator

from unet_factory.domain.errors import SpacingInvalid
from unet_factory.domain.precision import Precision
from unet_factory.domain.spacing import SpacingMm, parse_spacing
from unet_factory.platform.settings import Settings


class WorkerSettings(Settings):
    device: str = Field(default="auto", description="Device to compute on: `auto`, `cpu`, `cuda` or `cuda:N`.")
    threads: int = Field(default=0, description="CPU threads of a worker; 0: one per core.")
    device_cache_networks: int = Field(default=16, description="Number of networks kept ready on the device.")
    presence_s: float = Field(
        default=3.0,
        ge=1,
        description="How long a worker counts as up after its last announcement; `/readyz` depends on it.",
    )
    precision: Precision | Literal["auto"] = Field(
        default="auto",
        description="Precision of the networks' arithmetic: `float32`, `bfloat16`, or `auto`: bfloat16 where a trial "
        "at the worker's start finds it faster.",
    )
    cpu_fallback: bool = Field(
        default=True,
        description="Whether a job for which a GPU has too little memory, in smaller windows too, is done on the CPU.",
    )
    warm_spacings: str = Field(
        default="",
        description="Spacings in mm, such as `1,1,1; 0.5,0.5,3`, whose networks a worker makes while no job is there, "
        "for each model it has or gets.",
    )
    calibrate: bool = Field(
        default=True,
        description="Whether a worker measures, while no job is there, what jobs cost with a model that is new to it; "
        "if not, quotes are unknown until a few jobs have ended.",
    )
    idle_exit_s: float = Field(
        default=0.0,
        ge=0,
        description="A worker that had nothing to do for this long ends, for where something else starts workers when "
        "jobs wait; 0: never.",
    )
    shared_weights_dir: str = Field(
        default="",
        description="Folder for copies of the model files, to which only workers may write: on a CPU, those of a host "
        "that have the same models hold the weights in memory once. Empty: each worker reads them into its own memory. "
        "`serve --workers N` sets it.",
    )
    spread_windows: int = Field(
        default=0,
        ge=0,
        description="From this many windows on, idle workers of the same kind help with a scan, which then is done "
        "sooner and has the same label map; 0: never.",
    )

    @field_validator("warm_spacings")
    @classmethod
    def _are_spacings(cls, text: str) -> str:
        try:
            _spacings(text)
        except SpacingInvalid as error:
            raise ValueError(str(error)) from error
        return text

    @property
    def warm_spacings_ras_mm(self) -> tuple[SpacingMm, ...]:
        return _spacings(self.warm_spacings)


def _spacings(text: str) -> tuple[SpacingMm, ...]:
    """
    Raises:
        SpacingInvalid: one of them is not a spacing.
    """
    return tuple(parse_spacing(part) for part in text.split(";") if part.strip())
