"""Overlapping windows over a volume, and their logits blended in a slab that moves along one axis.

Windows come in order along that axis. What no later window reaches is final and need not be held any longer, so memory
grows with the cross-section of the volume, not with its length.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from unet_factory.domain.windows import window_starts

Starts = tuple[int, ...]

_SIGMA_PER_EXTENT = 1 / 8
_LEAST_WEIGHT = 1e-3  # no voxel may be left without any


@dataclass(frozen=True)
class Windows:
    """Windows of ``extents`` voxels over a volume, and where they start along each axis."""

    extents: tuple[int, ...]
    starts: tuple[Starts, ...]

    @classmethod
    def over(cls, volume: Sequence[int], extents: Sequence[int], overlap: float) -> "Windows":
        starts = (window_starts(whole, part, overlap) for whole, part in zip(volume, extents, strict=True))
        return cls(tuple(extents), tuple(starts))

    def __len__(self) -> int:
        return math.prod(map(len, self.starts))

    def within(self, axis: int, first: int, end: int) -> "Windows":
        """Those that reach the voxels from ``first`` to ``end`` along ``axis``."""
        reaching = tuple(start for start in self.starts[axis] if start < end and start + self.extents[axis] > first)
        return Windows(self.extents, (*self.starts[:axis], reaching, *self.starts[axis + 1 :]))

    def rows(self, axis: int) -> Iterator[tuple[list[Starts], int | None]]:
        """The windows in order along ``axis``: all that start at the same place, and where the next ones start."""
        places = self.starts[axis]
        for place, following in zip(places, (*places[1:], None), strict=True):
            yield list(product(*self.starts[:axis], (place,), *self.starts[axis + 1 :])), following


class Slab:
    """Blended logits of the voxels from ``first`` to ``end`` of each axis; along ``axis`` only ``depth`` of them at a
    time, from ``first[axis]`` on, which moves.

    Weights are a Gaussian of an eighth of the window around its middle, as in nnU-Net.
    """

    def __init__(
        self, first: Sequence[int], end: Sequence[int], axis: int, depth: int, windows: Windows, device: torch.device
    ) -> None:
        self.first, self._end, self._axis = list(first), list(end), axis
        shape = [stop - start for start, stop in zip(first, end, strict=True)]
        shape[axis] = min(depth, shape[axis])
        self._shape = shape
        self._single = len(windows) == 1
        self._window_weights = _gaussian(windows.extents).to(device)
        self._weights = torch.zeros(shape, device=device)
        self._sums: Tensor | None = None
        self.decided = 0
        """How many results along the axis have been made of it."""

    def add(self, starts: Starts, logits: Tensor) -> None:
        """Blend in the logits (classes, *window) of the window that starts at ``starts``."""
        here, there = [], []
        for start, part, first, extent in zip(starts, logits.shape[1:], self.first, self._shape, strict=True):
            begin, end = max(start, first), min(start + part, first + extent)
            here.append(slice(begin - first, end - first))
            there.append(slice(begin - start, end - start))
        if self._single:
            self._sums = logits[(slice(None), *there)]
            return
        if self._sums is None:
            self._sums = logits.new_zeros(len(logits), *self._shape)
        weights = self._window_weights[tuple(there)]
        self._sums[(slice(None), *here)].addcmul_(logits[(slice(None), *there)], weights)
        self._weights[tuple(here)] += weights

    @property
    def classes(self) -> int:
        return 0 if self._sums is None else len(self._sums)

    def logits(self, class_: int, first: int, end: int) -> Tensor:
        """Of one class (r, a, s): the planes from ``first`` to ``end`` along the axis, what is held of the rest."""
        assert self._sums is not None, "a window comes first"
        planes = self._axis, first - self.first[self._axis], end - first
        sums = self._sums[class_].narrow(*planes)
        return sums if self._single else sums / self._weights.narrow(*planes)

    def forget(self, before: int) -> None:
        """Move on, so that the planes from ``before`` on are held."""
        step = before - self.first[self._axis]
        if self._sums is None or step <= 0:
            return
        self.first[self._axis] = before
        for held in (*self._sums, self._weights):
            depth = held.shape[self._axis]
            for plane in range(depth - step):  # in order, as both may overlap
                held.select(self._axis, plane).copy_(held.select(self._axis, plane + step))
            held.narrow(self._axis, max(0, depth - step), min(step, depth)).zero_()


def _gaussian(extents: Sequence[int]) -> Tensor:
    weights = torch.ones(())
    for extent in extents:
        place = torch.arange(extent) - (extent - 1) / 2
        weights = weights[..., None] * torch.exp(-0.5 * (place / (extent * _SIGMA_PER_EXTENT)) ** 2)
    return weights.clamp(min=max(float(weights.min()), _LEAST_WEIGHT))
