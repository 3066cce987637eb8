"""From a spacing to a network's weights, and from a file to a checkpoint that can make them."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.models import HIPPOCAMPUS, paper_size
from benchmarks.rows import Must, Row, area, at_most
from benchmarks.timing import interleaved, timed_row
from unet_factory.domain.spacing import SnappedSpacing
from unet_factory.model.checkpoint import load_checkpoint, standalone_bytes
from unet_factory.model.hypernetwork import Hypernetwork
from unet_factory.platform.process_memory import keep_freed_memory
from unet_factory.platform.shared_copies import SharedCopies

_FLOOR, _PLAIN = "reading the heads once", "one linear layer per tensor"


@area("generation", "Generating a network")
def generation() -> Iterator[Row]:
    checkpoint = load_checkpoint(paper_size())
    hypernetwork, snapped = checkpoint.hypernetwork, checkpoint.manifest.grid.snap((1.0, 1.5, 2.0))
    half = load_checkpoint(paper_size("float16")).hypernetwork
    keep_freed_memory()  # as a worker does
    samples = interleaved(
        {
            "weights": lambda: hypernetwork.generate(snapped),
            "half": lambda: half.generate(snapped),
            "file": lambda: standalone_bytes(checkpoint, snapped),
            _FLOOR: lambda: _read_once(hypernetwork),
            _PLAIN: lambda: _one_layer_each(hypernetwork, snapped),
        }
    )
    yield timed_row("weights, paper size", samples, "weights", _FLOOR, must=at_most(1.2), before="2.3")
    name = "weights, paper size, heads stored in 16 bits"
    yield timed_row(name, samples, "half", _FLOOR, must=at_most(0.85), note="against reading the heads in 32 bits")
    yield timed_row("weights, paper size, against the plain form", samples, "weights", _PLAIN)
    yield timed_row("bytes of the standalone file, paper size", samples, "file", _FLOOR)


@area("load", "Loading a checkpoint")
def load() -> Iterator[Row]:
    yield _loading("paper size, 679 MB", paper_size(), at_most(1.3), "3.2")
    yield _loading("hippocampus-mr, 24 MB", HIPPOCAMPUS, at_most(3), "16")
    with tempfile.TemporaryDirectory(dir=paper_size().parent) as folder:
        shared = SharedCopies(Path(folder))
        yield _loading("paper size, a copy that another worker has mapped", paper_size(), at_most(1.3), "", shared)


def _loading(name: str, path: Path, must: Must, before: str, shared: SharedCopies | None = None) -> Row:
    """The round that does not count takes the file's digest, as a worker's list of models does before it loads any, and
    learns the shapes of its architecture.
    """
    against = "reading its bytes"
    buffer = bytearray(path.stat().st_size)
    contestants: dict[str, Callable[[], object]] = {
        "load": lambda: load_checkpoint(path, shared=shared),
        against: lambda: _read_into(path, buffer),
    }
    return timed_row(name, interleaved(contestants, rounds=5), "load", against, must=must, before=before)


def _read_into(path: Path, buffer: bytearray) -> None:
    with path.open("rb") as file:
        file.readinto(buffer)


def _read_once(hypernetwork: Hypernetwork) -> Tensor:
    """What no generation can do without: every byte of the heads through the memory bus, on all threads."""
    with torch.inference_mode():
        return hypernetwork.heads.sum()


def _one_layer_each(hypernetwork: Hypernetwork, snapped: SnappedSpacing) -> list[Tensor]:
    """As the paper puts it (section 3.1): a head for each layer of the U-Net."""
    sizes = [size.numel() for size in hypernetwork.weight_shapes.values()]
    with torch.inference_mode():
        features = hypernetwork.features(torch.tensor(snapped.mm))
        heads = zip(hypernetwork.heads.split(sizes), hypernetwork.bias.split(sizes), strict=True)
        return [5 * torch.tanh(torch.nn.functional.linear(features, weight, bias)) for weight, bias in heads]
