"""What is compared: the result of every convolution and of every nonlinearity, in the order in which a network runs.

Layers are found by watching a network run, so nothing here knows its topology: a convolution is named by its
weights, a nonlinearity by the convolution before it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import shortest_path
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from unet_factory.domain.manifest import Architecture
from unet_factory.domain.spacing import SnappedSpacing
from unet_factory.model.unet import empty_unet

CONVOLUTIONS = {
    torch.conv2d,
    torch.conv3d,
    torch.mkldnn_convolution,
    torch.conv_transpose2d,
    torch.conv_transpose3d,
}
NONLINEARITIES = {torch.relu, functional.relu}
_TRACED_MULTIPLE = 4


@dataclass(frozen=True)
class Layers:
    """The layers of a network for one spacing.

    ``ratios``: per layer and axis, the input's voxels per voxel. ``edges``: (from, to), which layers' results a layer
    is computed from; more than one where a skip connection ends.
    """

    names: tuple[str, ...]
    ratios: tuple[tuple[int, ...], ...]
    edges: tuple[tuple[int, int], ...]

    @property
    def skips(self) -> list[tuple[int, int]]:
        """Edges that pass over layers."""
        return [(start, end) for start, end in self.edges if end > start + 1]

    @cached_property
    def distances(self) -> "np.ndarray[tuple[int, int], np.dtype[np.int64]]":
        """(layers, layers): how many connections lie between two layers on the shortest way, skips included."""
        count = len(self.names)
        starts, ends = zip(*self.edges, strict=True)
        graph = coo_array((np.ones(len(self.edges)), (starts, ends)), shape=(count, count))
        return shortest_path(graph.tocsr(), directed=False, unweighted=True).astype(np.int64)

    @property
    def same_size(self) -> "np.ndarray[tuple[int, int], np.dtype[np.bool_]]":
        """(layers, layers): whether two layers' results have the same extents in space."""
        ratios = np.array(self.ratios)
        result: np.ndarray[tuple[int, int], np.dtype[np.bool_]] = (ratios[:, None] == ratios[None, :]).all(axis=-1)
        return result

    @property
    def first_of_decoder(self) -> int:
        """The first layer that is finer than the one before it; the number of layers where none is."""
        sizes = np.array(self.ratios).prod(axis=1)
        finer = np.flatnonzero(np.diff(sizes) < 0)
        return int(finer[0]) + 1 if len(finer) else len(self.names)


Seen = Callable[[str | None, tuple[Any, ...], Tensor], None]
"""Name of the layer, None for what is no layer; arguments and result of the call."""


class LayerWatch(TorchFunctionMode):
    """While active, tells ``see`` of everything that is computed, as a network runs.

    ``weights``: name -> tensor, the very tensors that the network runs with.
    """

    def __init__(self, weights: Mapping[str, Tensor], see: Seen) -> None:
        super().__init__()
        self._names = {id(tensor): name.removesuffix(".weight") for name, tensor in weights.items()}
        self._see, self._convolution = see, "input"

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self._see(self._name_of(func, args), args, result)
        return result

    def _name_of(self, func: Any, args: tuple[Any, ...]) -> str | None:
        if func in CONVOLUTIONS:
            self._convolution = self._names[id(args[1])]
            return self._convolution
        return f"{self._convolution}.relu" if func in NONLINEARITIES else None


def layers_of(architecture: Architecture, spacing: SnappedSpacing) -> Layers:
    """The layers of the network for ``spacing``, found without computing anything."""
    unet = empty_unet(architecture, spacing)
    extents = [_TRACED_MULTIPLE * divisor for divisor in unet.divisors]
    trace = _Trace()
    with LayerWatch(dict(unet.named_parameters()), trace.see):
        unet(torch.empty((1, architecture.in_channels, *extents), device="meta"))
    ratios = tuple(ratio_of(extents, shape) for shape in trace.shapes)
    return Layers(tuple(trace.names), ratios, tuple(sorted(trace.edges)))


def ratio_of(input_extents: Sequence[int], extents: Sequence[int]) -> tuple[int, ...]:
    """Per axis, how many of the input's voxels one voxel of a layer stands for: a power of two.

    A transposed convolution of stride one makes one voxel more than there are, which the network then cuts off.
    """
    return tuple(_ratio_along(whole, extent) for whole, extent in zip(input_extents, extents, strict=True))


def _ratio_along(whole: int, extent: int) -> int:
    for voxels in (extent, extent - 1):
        for power in range(whole.bit_length()):
            if voxels << power == whole:
                return 1 << power
    raise ValueError(f"{extent} voxels of a layer do not tile {whole} of the input")


class _Trace:
    """Follows which layers a tensor comes from, through everything that happens to it."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.shapes: list[tuple[int, ...]] = []
        self.edges: set[tuple[int, int]] = set()
        self._sources: dict[int, frozenset[int]] = {}
        self._alive: list[Tensor] = []  # the id of a tensor that is gone may become another one's

    def see(self, name: str | None, args: tuple[Any, ...], result: Tensor) -> None:
        sources = frozenset[int]().union(*(self._sources.get(id(tensor), ()) for tensor in _tensors(args)))
        if name is not None:
            layer = len(self.names)
            self.names.append(name)
            self.shapes.append(tuple(result.shape[2:]))
            self.edges.update((source, layer) for source in sources)
            sources = frozenset({layer})
        self._sources[id(result)] = sources
        self._alive.append(result)


def _tensors(args: Iterable[Any]) -> Iterator[Tensor]:
    for value in args:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)
