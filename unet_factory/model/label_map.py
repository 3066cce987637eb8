"""From overlapping windows of logits to a label map on another grid, without holding the logits of the whole volume.

Windows come in order along one axis, and their logits are blended in a slab that moves along it. What no later window
reaches is final, is decided and need not be held any longer: memory grows with the cross-section of the volume, not
with its length. Where a network has more classes than features in front of its last layer, the features are blended,
and the last layer is applied to them piece by piece: then memory does not grow with the classes either.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, product

import torch
from torch import Tensor
from torch.nn import functional

from unet_factory.domain.windows import window_starts
from unet_factory.model.preprocessing import AxisSampling, sampled
from unet_factory.model.unet import convolve_inside

Starts = tuple[int, ...]
Predict = Callable[[Starts], Tensor]
Span = tuple[int, int]

SLAB_BYTES = 2**31
LOGITS_AT_ONCE = 2**21

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

    def shares(self, axis: int) -> dict[int, Tensor]:
        """What each start's window counts at its voxels along ``axis``: a Gaussian, such that all sum up to one."""
        gaussian, starts = _gaussian(self.extents[axis]), self.starts[axis]
        total = torch.zeros(starts[-1] + len(gaussian))
        for start in starts:
            total[start : start + len(gaussian)] += gaussian
        return {start: gaussian / total[start : start + len(gaussian)] for start in starts}

    def rows(self, axis: int) -> Iterator[tuple[list[Starts], int | None]]:
        """The windows in order along ``axis``: all that start at the same place, and where the next ones start."""
        places = self.starts[axis]
        for place, following in zip(places, (*places[1:], None), strict=True):
            yield list(product(*self.starts[:axis], (place,), *self.starts[axis + 1 :])), following


@dataclass(frozen=True)
class Head:
    """A network's last layer, a convolution, for features that were blended.

    ``weight``: (classes, features, *kernel), of three axes; ``bias``: (classes,).
    """

    weight: Tensor
    bias: Tensor

    @property
    def reach(self) -> Starts:
        """How many neighbours on either side of a voxel count, along each axis."""
        return tuple(extent // 2 for extent in self.weight.shape[2:])

    def logits(self, features: Tensor) -> Tensor:
        """(features, r, a, s) -> (classes, ...) of those voxels that have all their neighbours among them."""
        return convolve_inside(features[None], self.weight.to(features), self.bias.to(features))[0]


class Slab:
    """Blended logits of the voxels from ``first`` to ``end`` of each axis; along ``axis`` only ``depth`` of them at a
    time, from ``first[axis]`` on, which moves.

    Weights are a Gaussian of an eighth of the window around its middle, as in nnU-Net, but at least a thousandth.
    """

    def __init__(
        self, first: Sequence[int], end: Sequence[int], axis: int, depth: int, windows: Windows, device: torch.device
    ) -> None:
        self.first, self._end, self._axis = list(first), list(end), axis
        shape = [stop - start for start, stop in zip(first, end, strict=True)]
        shape[axis] = min(depth, shape[axis])
        self._shape = shape
        self._single = len(windows) == 1
        self._prepare(windows, device)
        self._sums: Tensor | None = None
        self.decided = 0
        """How many results along the axis have been made of it."""

    def _prepare(self, windows: Windows, device: torch.device) -> None:
        self._window_weights = _window_weights(windows.extents).to(device)
        self._weights = torch.zeros(self._shape, device=device)

    def add(self, starts: Starts, values: Tensor) -> None:
        """Blend in the values (channels, *window) of the window that starts at ``starts``.

        Channel by channel: all of a window as float32 at once would take twice the memory of its values in bfloat16.
        """
        here, there = [], []
        for start, part, first, extent in zip(starts, values.shape[1:], self.first, self._shape, strict=True):
            begin, end = max(start, first), min(start + part, first + extent)
            here.append(slice(begin - first, end - first))
            there.append(slice(begin - start, end - start))
        if self._single:
            self._sums = values[(slice(None), *there)]
        else:
            self._blend(starts, values, tuple(here), tuple(there))

    def _blend(self, starts: Starts, values: Tensor, here: tuple[slice, ...], there: tuple[slice, ...]) -> None:
        del starts  # every window has the same weights
        if self._sums is None:
            self._sums = torch.zeros(len(values), *self._shape, device=values.device)
        weights = self._window_weights[there]
        for sums, found in zip(self._sums, values, strict=True):
            sums[here].addcmul_(found[there].float(), weights)
        self._weights[here] += weights

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
        for held in self._held(self._sums):
            depth = held.shape[self._axis]
            for plane in range(depth - step):  # in order, as both may overlap
                held.select(self._axis, plane).copy_(held.select(self._axis, plane + step))
            held.narrow(self._axis, max(0, depth - step), min(step, depth)).zero_()

    def _held(self, sums: Tensor) -> tuple[Tensor, ...]:
        return (*sums, self._weights)


class FeatureSlab(Slab):
    """Blended features instead, which a head makes logits of.

    Weights are the Gaussian itself, divided by its sum over all windows before they are used. At a least weight they
    would jump where a window ends, and a head that looks at neighbours would see an edge there. Features in bfloat16
    are summed in float16, which is finer.
    """

    def _prepare(self, windows: Windows, device: torch.device) -> None:
        self._shares = [
            {start: share.to(device) for start, share in windows.shares(axis).items()}
            for axis in range(len(self._shape))
        ]

    def _blend(self, starts: Starts, values: Tensor, here: tuple[slice, ...], there: tuple[slice, ...]) -> None:
        if self._sums is None:
            self._sums = values.new_zeros(len(values), *self._shape, dtype=_sum_type(values))
        r, a, s = (shares[start][part] for shares, start, part in zip(self._shares, starts, there, strict=True))
        weights = r[:, None, None] * a[:, None] * s
        for sums, found in zip(self._sums, values, strict=True):
            sums[here] += found[there].float() * weights

    def around(self, spans: Sequence[Span], reach: Sequence[int]) -> Tensor:
        """(features, r, a, s) float32 of these voxels and ``reach`` more on either side; zeros where there are none."""
        assert self._sums is not None, "a window comes first"
        place, missing = [], []
        for (start, stop), more, first, end in zip(spans, reach, self.first, self._end, strict=True):
            begin, last = max(start - more, first), min(stop + more, end)
            place.append(slice(begin - first, last - first))
            missing += [stop + more - last, begin - start + more]
        features = self._sums[(slice(None), *place)].float()
        return functional.pad(features, missing[::-1]) if any(missing) else features

    def _held(self, sums: Tensor) -> tuple[Tensor, ...]:
        return tuple(sums)


def _sum_type(features: Tensor) -> torch.dtype:
    return torch.float16 if features.dtype == torch.bfloat16 else torch.float32


def _window_weights(extents: Sequence[int]) -> Tensor:
    weights = torch.ones(())
    for extent in extents:
        weights = weights[..., None] * _gaussian(extent)
    return weights.clamp(min=max(float(weights.min()), _LEAST_WEIGHT))


def _gaussian(extent: int) -> Tensor:
    place = torch.arange(extent) - (extent - 1) / 2
    return torch.exp(-0.5 * (place / (extent * _SIGMA_PER_EXTENT)) ** 2)


class LabelMapMaker:
    """Takes the windows in order along the longest axis, and decides about voxels as soon as their logits are final.

    The slab in between needs channels x the window's depth x the volume's cross-section. Where that would be more than
    ``slab_bytes``, the volume is segmented in bands across its second longest axis, one after the other; windows that
    reach into two bands are then predicted twice.

    Args:
        samplings: from the working grid, for each axis, to the grid of the label map.
        shape: (r, a, s) on the working grid, without padding.
        predict: (channels, *window) of the window that starts at a place: logits or, with ``head``, features.
        head: makes logits of features, at most ``logits_at_once``.
    """

    def __init__(
        self,
        samplings: Sequence[AxisSampling],
        shape: Sequence[int],
        windows: Windows,
        predict: Predict,
        slab_bytes: int = SLAB_BYTES,
        head: Head | None = None,
        logits_at_once: int = LOGITS_AT_ONCE,
    ) -> None:
        self._samplings, self._shape, self._windows, self._predict = samplings, shape, windows, predict
        self._slab_bytes, self._head, self._logits_at_once = slab_bytes, head, logits_at_once
        self._reach = (0, 0, 0) if head is None else head.reach
        self._ends = [
            min(extent + reach, starts[-1] + part)
            for extent, reach, starts, part in zip(shape, self._reach, windows.starts, windows.extents, strict=True)
        ]
        self._axis, self._across, _ = sorted(range(3), key=lambda axis: -shape[axis])
        self._depth = windows.extents[self._axis] + samplings[self._axis].widest + 2 * self._reach[self._axis]
        self.predictions = len(windows)
        """How many windows are predicted in all; known once the first of them has told the number of channels."""

    def label_map(self) -> Tensor:
        """Arg max over the classes, (r, a, s) uint8."""
        first: Tensor | None = self._predict((0, 0, 0))
        assert first is not None
        bands = [(band, self._windows_of(band)) for band in self._bands(self._voxel_bytes(first))]
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

    def _voxel_bytes(self, values: Tensor) -> int:
        return len(values) * (_LOGIT_BYTES if self._head is None else _sum_type(values).itemsize)

    def _bands(self, voxel_bytes: int) -> list[Span]:
        """Of results along the second longest axis. They begin where windows do, so that few windows are in two."""
        sampling, starts = self._samplings[self._across], self._windows.starts[self._across]
        cross_section = math.prod(self._shape) // self._shape[self._axis]
        slab_bytes = voxel_bytes * min(self._depth, self._shape[self._axis]) * cross_section
        pieces = min(len(starts), -(-slab_bytes // self._slab_bytes))
        edges = [sampling.results_from(starts[len(starts) * piece // pieces]) for piece in range(pieces)]
        edges = sorted({*edges, sampling.results})
        return list(pairwise(edges))

    def _windows_of(self, band: Span) -> Windows:
        return self._windows.within(self._across, *self._values_for(self._across, band))

    def _values_for(self, axis: int, results: Span) -> Span:
        """What these results depend on."""
        first, end = self._samplings[axis].samples_of(*results)
        return max(0, first - self._reach[axis]), min(end + self._reach[axis], self._ends[axis])

    def _slab(self, band: Span, windows: Windows, device: torch.device) -> Slab:
        spans = [self._values_for(axis, (0, each.results)) for axis, each in enumerate(self._samplings)]
        spans[self._across] = self._values_for(self._across, band)
        spans[self._axis] = 0, self._ends[self._axis]
        first, end = zip(*spans, strict=True)
        kind = Slab if self._head is None else FeatureSlab
        return kind(first, end, self._axis, self._depth, windows, device)

    def _decide_what_is_final(self, labels: Tensor, slab: Slab, band: Span, following: int | None) -> None:
        """About all results for which the samples before the ``following`` windows suffice, and forget what no other
        result needs.
        """
        sampling, reach, samples = self._samplings[self._axis], self._reach[self._axis], self._shape[self._axis]
        if following is not None:
            samples = min(following - reach, samples)
        results = [(0, each.results) for each in self._samplings]
        results[self._across] = band
        results[self._axis] = slab.decided, sampling.results_from(samples)
        start, stop = results[self._axis]
        if stop > start:
            if isinstance(slab, FeatureSlab):
                self._decide_by_head(labels, slab, results)
            else:
                labels[_place(results)] = _largest_class(self._resampled(slab, results))
            slab.decided = stop
        if following is not None and stop < sampling.results:
            slab.forget(min(samples, sampling.samples_of(stop, stop + 1)[0]) - reach)

    def _resampled(self, slab: Slab, results: Sequence[Span]) -> Iterator[Tensor]:
        """Class by class, the logits of these results."""
        planes = self._samplings[self._axis].samples_of(*results[self._axis])
        return (sampled(slab.logits(value, *planes), self._samplings, results) for value in range(slab.classes))

    def _decide_by_head(self, labels: Tensor, slab: FeatureSlab, results: Sequence[Span]) -> None:
        """About these results, piece by piece."""
        head = self._head
        assert head is not None
        for piece in _pieces(results, self._logits_at_once // len(head.weight)):
            samples = [each.samples_of(*span) for each, span in zip(self._samplings, piece, strict=True)]
            logits = head.logits(slab.around(samples, head.reach))
            labels[_place(piece)] = sampled(logits, self._samplings, piece).argmax(dim=0)


def _place(spans: Sequence[Span]) -> tuple[slice, ...]:
    return tuple(slice(*span) for span in spans)


def _pieces(spans: Sequence[Span], voxels: int) -> Iterator[Sequence[Span]]:
    """These voxels, halved along their longest axis until a piece has at most ``voxels``."""
    extents = [stop - start for start, stop in spans]
    axis = extents.index(max(extents))
    if math.prod(extents) <= voxels or extents[axis] == 1:
        yield spans
        return
    start, stop = spans[axis]
    middle = (start + stop) // 2
    for half in ((start, middle), (middle, stop)):
        yield from _pieces([*spans[:axis], half, *spans[axis + 1 :]], voxels)


def _largest_class(logits: Iterator[Tensor]) -> Tensor:
    """The class of the largest logit of each voxel, the first of equals; uint8."""
    best = next(logits)
    labels = torch.zeros(best.shape, dtype=torch.uint8, device=best.device)
    for value, candidate in enumerate(logits, 1):
        labels.masked_fill_(candidate > best, value)
        best = torch.maximum(best, candidate)
    return labels
