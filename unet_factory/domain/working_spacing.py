"""The spacing that a scan is segmented at, and how large it is there: decided once, by gateway and worker alike."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from unet_factory.domain.errors import VolumeTooLarge
from unet_factory.domain.spacing import OutsidePolicy, SnappedSpacing, SpacingGrid, SpacingMm


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
