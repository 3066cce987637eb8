"""From overlapping windows of logits to a label map on another grid, without holding the logits of the whole volume.

Windows come in order along one axis, and their logits are blended in a slab that moves along it. What no later window
reaches is final, is decided and need not be held any longer: memory grows with the cross-section of the volume, not
with its length.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, product

import torch
from torch import Tensor

from unet_factory.domain.windows import window_starts
from unet_factory.model.preprocessing import AxisSampling, sampled

Starts = tuple[int, ...]
Predict = Callable[[Starts], Tensor]
Span = tuple[int, int]

SLAB_BYTES = 2**31

_LOGIT_BYTES = 4
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
        """Blend in the logits (classes, *window) of the window that starts at ``starts``; sums are float32.

        Class by class: all classes of a window as float32 at once would take twice the memory of its logits in
        bfloat16.
        """
        here, there = [], []
        for start, part, first, extent in zip(starts, logits.shape[1:], self.first, self._shape, strict=True):
            begin, end = max(start, first), min(start + part, first + extent)
            here.append(slice(begin - first, end - first))
            there.append(slice(begin - start, end - start))
        if self._single:
            self._sums = logits[(slice(None), *there)]
            return
        if self._sums is None:
            self._sums = torch.zeros(len(logits), *self._shape, device=logits.device)
        weights = self._window_weights[tuple(there)]
        for sums, found in zip(self._sums, logits, strict=True):
            sums[tuple(here)].addcmul_(found[tuple(there)].float(), weights)
        self._weights[tuple(here)] += weights

    @property
    def classes(self) -> int:
        return 0 if self._sums is None else len(self._sums)

    def logits(self, class_: int, first: int, end: int) -> Tensor:
        """Of one class (r, a, s) float32: planes from ``first`` to ``end`` along the axis, what is held of the rest."""
        assert self._sums is not None, "a window comes first"
        planes = self._axis, first - self.first[self._axis], end - first
        sums = self._sums[class_].narrow(*planes)
        return sums.float() if self._single else sums / self._weights.narrow(*planes)

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


class LabelMapMaker:
    """Takes the windows in order along the longest axis, and decides about voxels as soon as their logits are final.

    The slab in between needs classes x the window's depth x the volume's cross-section. Where that would be more than
    ``slab_bytes``, the volume is segmented in bands across its second longest axis, one after the other; windows that
    reach into two bands are then predicted twice.

    Args:
        samplings: from the working grid, for each axis, to the grid of the label map.
        shape: (r, a, s) on the working grid, without padding.
        predict: (classes, *window) logits of the window that starts at a place.
    """

    def __init__(
        self,
        samplings: Sequence[AxisSampling],
        shape: Sequence[int],
        windows: Windows,
        predict: Predict,
        slab_bytes: int = SLAB_BYTES,
    ) -> None:
        self._samplings, self._shape, self._windows, self._predict = samplings, shape, windows, predict
        self._slab_bytes = slab_bytes
        self._axis, self._across, _ = sorted(range(3), key=lambda axis: -shape[axis])
        self._depth = windows.extents[self._axis] + samplings[self._axis].widest
        self.predictions = len(windows)
        """How many windows are predicted in all; known once the first of them has told the number of classes."""

    def label_map(self) -> Tensor:
        """Arg max over the classes, (r, a, s) uint8."""
        first: Tensor | None = self._predict((0, 0, 0))
        assert first is not None
        bands = [(band, self._windows_of(band)) for band in self._bands(len(first))]
        self.predictions = sum(len(windows) for _, windows in bands)
        labels = torch.zeros([s.results for s in self._samplings], dtype=torch.uint8, device=first.device)
        for band, windows in bands:
            slab = self._slab(band, windows, labels.device)
            for row, following in windows.rows(self._axis):
                for starts in row:
                    slab.add(starts, self._predict(starts) if first is None else first)
                    first = None
                self._decide_what_is_final(labels, slab, band, following)
        return labels

    def _bands(self, classes: int) -> list[Span]:
        """Of results along the second longest axis. They begin where windows do, so that few windows are in two."""
        sampling, starts = self._samplings[self._across], self._windows.starts[self._across]
        cross_section = math.prod(self._shape) // self._shape[self._axis]
        slab_bytes = classes * _LOGIT_BYTES * min(self._depth, self._shape[self._axis]) * cross_section
        pieces = min(len(starts), -(-slab_bytes // self._slab_bytes))
        edges = [sampling.results_from(starts[len(starts) * piece // pieces]) for piece in range(pieces)]
        edges = sorted({*edges, sampling.results})
        return list(pairwise(edges))

    def _windows_of(self, band: Span) -> Windows:
        return self._windows.within(self._across, *self._samplings[self._across].samples_of(*band))

    def _slab(self, band: Span, windows: Windows, device: torch.device) -> Slab:
        spans = [each.samples_of(0, each.results) for each in self._samplings]
        spans[self._across] = self._samplings[self._across].samples_of(*band)
        spans[self._axis] = 0, self._shape[self._axis]
        first, end = zip(*spans, strict=True)
        return Slab(first, end, self._axis, self._depth, windows, device)

    def _decide_what_is_final(self, labels: Tensor, slab: Slab, band: Span, following: int | None) -> None:
        """About all results for which the samples before the ``following`` windows suffice, and forget the samples that
        no other result needs.
        """
        sampling = self._samplings[self._axis]
        samples = self._shape[self._axis] if following is None else min(following, self._shape[self._axis])
        results = [(0, each.results) for each in self._samplings]
        results[self._across] = band
        results[self._axis] = slab.decided, sampling.results_from(samples)
        start, stop = results[self._axis]
        if stop > start:
            part = labels[tuple(slice(*span) for span in results)]
            part.copy_(_largest_class(self._resampled(slab, results)))
            slab.decided = stop
        if following is not None and stop < sampling.results:
            slab.forget(min(samples, sampling.samples_of(stop, stop + 1)[0]))

    def _resampled(self, slab: Slab, results: Sequence[Span]) -> Iterator[Tensor]:
        """Class by class, the logits of these results."""
        planes = self._samplings[self._axis].samples_of(*results[self._axis])
        return (sampled(slab.logits(value, *planes), self._samplings, results) for value in range(slab.classes))


def _largest_class(logits: Iterator[Tensor]) -> Tensor:
    """The class of the largest logit of each voxel, the first of equals; uint8."""
    best = next(logits)
    labels = torch.zeros(best.shape, dtype=torch.uint8, device=best.device)
    for value, candidate in enumerate(logits, 1):
        labels.masked_fill_(candidate > best, value)
        best = torch.maximum(best, candidate)
    return labels
