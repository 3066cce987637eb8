"""Voxel spacings, the grid they are snapped to, what happens outside the trained range,
and the working spacing of a scan.

Order is always (R, A, S): the axes of an array after reorienting to RAS+. Snapped spacings are integer micrometres,
so equal spacings are equal cache keys.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Self

from pydantic import BaseModel, ConfigDict, model_validator

from unet_factory.domain.errors import SpacingInvalid, SpacingOutOfRange, VolumeTooLarge
from unet_factory.domain.numbers import parse_number

UM_PER_MM = 1000
MAX_SPACING_MM = 1000.0

SpacingMm = tuple[float, float, float]


class OutsidePolicy(StrEnum):
    """What to do with a spacing outside the trained range (paper, section 4.2 and dotted lines of Fig. 2)."""

    REJECT = "reject"
    CLAMP = "clamp"
    EXTRAPOLATE = "extrapolate"


class SnappedSpacing(NamedTuple):
    """A spacing on a model's grid, in integer micrometres (R, A, S)."""

    r_um: int
    a_um: int
    s_um: int

    @property
    def mm(self) -> SpacingMm:
        return (self.r_um / UM_PER_MM, self.a_um / UM_PER_MM, self.s_um / UM_PER_MM)

    def __str__(self) -> str:
        return ",".join(f"{mm:g}" for mm in self.mm)


class ResolvedSpacing(NamedTuple):
    """The spacing that the weights are generated for, and whether a policy had to step in."""

    snapped: SnappedSpacing
    out_of_range: bool


def validate_spacing(values: Iterable[float]) -> SpacingMm:
    """Return ``values`` as a spacing in mm (R, A, S).

    Raises:
        SpacingInvalid: not three finite numbers in (0, 1000].
    """
    spacing = tuple(float(value) for value in values)
    if len(spacing) != 3:
        slices = "; for a slice, S is its thickness" if len(spacing) == 2 else ""
        raise SpacingInvalid(
            f"a spacing must be three numbers in mm (R,A,S), not {len(spacing)}: {list(spacing)}{slices}",
            requested_mm=[str(value) for value in spacing],
        )
    if not all(math.isfinite(value) and 0 < value <= MAX_SPACING_MM for value in spacing):
        raise SpacingInvalid(
            f"spacing {spacing} mm: every axis must be finite, above 0 and at most {MAX_SPACING_MM:g} mm",
            requested_mm=[str(value) for value in spacing],
        )
    return (spacing[0], spacing[1], spacing[2])


def parse_spacing(text: str) -> SpacingMm:
    """Read ``"1,0.5,0.5"`` as a spacing in mm (R, A, S).

    Raises:
        SpacingInvalid: not three comma-separated positive finite numbers.
    """
    try:
        values = [parse_number(part) for part in text.split(",")]
    except ValueError:
        raise SpacingInvalid(
            f"spacing {text!r}: expected three comma-separated numbers in mm (R,A,S), such as 1,0.5,0.5",
            requested=text,
        ) from None
    return validate_spacing(values)


class SpacingGrid(BaseModel):
    """The spacings a checkpoint knows: a step and a trained range per axis, all integer micrometres (R, A, S)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    step_um: int
    min_um: tuple[int, int, int]
    max_um: tuple[int, int, int]

    @model_validator(mode="after")
    def _range_lies_on_grid(self) -> Self:
        if self.step_um <= 0:
            raise ValueError(f"step_um is {self.step_um}; it must be positive")
        for low, high in zip(self.min_um, self.max_um, strict=True):
            if not 0 < low <= high:
                raise ValueError(f"trained range [{low}, {high}] um must be positive, with the minimum first")
            if low % self.step_um or high % self.step_um:
                raise ValueError(f"trained range [{low}, {high}] um must be multiples of the step {self.step_um} um")
        return self

    @classmethod
    def from_mm(cls, step_mm: float, range_mm: Iterable[Iterable[float]]) -> Self:
        """Build from a step and three (min, max) pairs in mm."""
        lows, highs = zip(*range_mm, strict=True)
        return cls(
            step_um=_um(step_mm),
            min_um=(_um(lows[0]), _um(lows[1]), _um(lows[2])),
            max_um=(_um(highs[0]), _um(highs[1]), _um(highs[2])),
        )

    @property
    def step_mm(self) -> float:
        return self.step_um / UM_PER_MM

    @property
    def range_mm(self) -> tuple[tuple[float, float], ...]:
        """Three (min, max) pairs in mm, axes (R, A, S)."""
        return tuple((low / UM_PER_MM, high / UM_PER_MM) for low, high in zip(self.min_um, self.max_um, strict=True))

    def snap(self, spacing_ras_mm: Iterable[float]) -> SnappedSpacing:
        """The nearest grid spacing (ties to the coarser one), at least one step per axis. Idempotent."""
        r_um, a_um, s_um = (
            max(1, math.floor(value * UM_PER_MM / self.step_um + 0.5)) * self.step_um
            for value in validate_spacing(spacing_ras_mm)
        )
        return SnappedSpacing(r_um, a_um, s_um)

    def contains(self, snapped: SnappedSpacing) -> bool:
        return all(low <= um <= high for um, low, high in zip(snapped, self.min_um, self.max_um, strict=True))

    def clamp(self, snapped: SnappedSpacing) -> SnappedSpacing:
        """The closest trained spacing."""
        r_um, a_um, s_um = (
            min(max(um, low), high) for um, low, high in zip(snapped, self.min_um, self.max_um, strict=True)
        )
        return SnappedSpacing(r_um, a_um, s_um)

    def resolve(self, spacing_ras_mm: Iterable[float], policy: OutsidePolicy) -> ResolvedSpacing:
        """Snap, then apply ``policy`` where the snapped spacing lies outside the trained range.

        Raises:
            SpacingInvalid: not a spacing.
            SpacingOutOfRange: outside the trained range under ``reject``.
        """
        requested_mm = validate_spacing(spacing_ras_mm)
        snapped = self.snap(requested_mm)
        if self.contains(snapped):
            return ResolvedSpacing(snapped, out_of_range=False)
        if policy is OutsidePolicy.REJECT:
            raise SpacingOutOfRange(requested_mm, self.range_mm)
        return ResolvedSpacing(
            self.clamp(snapped) if policy is OutsidePolicy.CLAMP else snapped,
            out_of_range=True,
        )


def _um(mm: float) -> int:
    return round(mm * UM_PER_MM)


@dataclass(frozen=True)
class SpacingPlan:
    """Which spacing a scan is segmented at, all in mm (R, A, S), and the snapped one its weights are made for.

    On every axis ``working_mm`` is the native spacing, or, where that axis is resampled, the snapped one.
    """

    native_mm: SpacingMm
    working_mm: SpacingMm
    snapped: SnappedSpacing
    out_of_range: bool

    @property
    def resampled(self) -> bool:
        return self.working_mm != self.native_mm


def plan_spacing(
    native_mm: SpacingMm, grid: SpacingGrid, outside: OutsidePolicy, requested_mm: SpacingMm | None = None
) -> SpacingPlan:
    """Decide the working spacing: the requested one, else the scan's own, under the policy where it was not trained.

    An axis whose native spacing snaps to the wanted one is left as it is.

    Raises:
        SpacingOutOfRange: the wanted spacing was not trained and the policy is ``reject``.
    """
    wanted, out_of_range = grid.resolve(requested_mm or native_mm, outside)
    native = grid.snap(native_mm)
    r_mm, a_mm, s_mm = (
        native_mm[axis] if wanted[axis] == native[axis] else wanted.mm[axis] for axis in range(len(native_mm))
    )
    return SpacingPlan(native_mm, (r_mm, a_mm, s_mm), wanted, out_of_range)


def resampled_shape(shape: Sequence[int], spacing_mm: Sequence[float], target_mm: Sequence[float]) -> tuple[int, ...]:
    """The extents at which ``shape`` voxels of ``spacing_mm`` cover the same field of view at ``target_mm``."""
    return tuple(
        max(1, math.floor(extent * source / target + 0.5))
        for extent, source, target in zip(shape, spacing_mm, target_mm, strict=True)
    )


def check_working_size(shape: Sequence[int], plan: SpacingPlan, max_voxels: int) -> None:
    """
    Raises:
        VolumeTooLarge: the scan (r, a, s) has more voxels than allowed at the working spacing.
    """
    working_shape = resampled_shape(shape, plan.native_mm, plan.working_mm)
    voxels = math.prod(working_shape)
    if voxels > max_voxels:
        raise VolumeTooLarge(
            f"at the working spacing {plan.working_mm} mm the scan has {working_shape}, that is {voxels} voxels; "
            f"at most {max_voxels} are allowed",
            working_spacing_mm=list(plan.working_mm),
            voxels=voxels,
            allowed=max_voxels,
        )
