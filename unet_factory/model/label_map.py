"""From windows of logits to a label map on another grid, without ever holding the logits of the whole volume."""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from unet_factory.model.blending import Slab, Starts, Windows
from unet_factory.model.preprocessing import sampled
from unet_factory.model.sampling import AxisSampling

Predict = Callable[[Starts], Tensor]
Span = tuple[int, int]

SLAB_BYTES = 2**31
_LOGIT_BYTES = 4


class LabelMapMaker:
    """Takes the windows in order along the longest axis, and decides about voxels as soon as their logits are final.

    The slab in between needs classes x the window's depth x the volume's cross-section. Where that would be more than
    ``slab_bytes``, the volume is segmented in bands across its second longest axis, one after the other; windows that
    reach into two bands are then predicted twice.

    Args:
        samplings: from the working grid, for each axis, to the grid of the label map.
        shape: (r, a, s) on the working grid, without padding.
        predict: (classes, *window) float32 logits of the window that starts at a place.
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
