"""From a spacing to a network's weights, and from a file to a checkpoint that can make them."""

import tempfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from benchmarks.models import HIPPOCAMPUS, paper_size
from benchmarks.rows import Bound, Row, area, at_most
from benchmarks.timing import interleaved, quartiles, timed_row
from unet_factory.domain.spacing import SnappedSpacing
from unet_factory.jobs.queue import NetworkOrders
from unet_factory.model.checkpoint import Checkpoint, load_checkpoint, standalone_bytes
from unet_factory.model.hypernetwork import Hypernetwork
from unet_factory.platform.process_memory import keep_freed_memory
from unet_factory.platform.shared_copies import SharedCopies
from unet_factory.platform.weight_cache import WeightCache, connect_cache
from unet_factory_cli.embedded import CACHE_OPTIONS, EmbeddedServer
from unet_factory_worker.factory import WeightFactory

ANOTHER_SPACING = "another spacing on a warm worker, beyond its weights, paper size"
WEIGHTS, FLOOR = "weights, paper size", "reading the heads once"
_PLAIN = "one linear layer per tensor"


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
            FLOOR: lambda: read_once(hypernetwork),
            _PLAIN: lambda: _one_layer_each(hypernetwork, snapped),
        }
    )
    yield timed_row(WEIGHTS, samples, "weights", FLOOR, aim=at_most(1.2), before="2.3")
    name = f"{WEIGHTS}, heads stored in 16 bits"
    yield timed_row(name, samples, "half", FLOOR, aim=at_most(0.85), note="against reading the heads in 32 bits")
    yield timed_row(f"{WEIGHTS}, against the plain form", samples, "weights", _PLAIN, aim=at_most(0.4))
    yield timed_row("bytes of the standalone file, paper size", samples, "file", FLOOR)
    yield another_spacing(checkpoint, torch.device("cpu"), at_most(150))


def another_spacing(checkpoint: Checkpoint, device: torch.device, aim: Bound) -> Row:
    """What a warm worker needs until the network of a spacing that is new to it can run: with the file for the cache,
    and on to the module. What making the weights alone takes is not counted.
    """
    unseen = (checkpoint.manifest.grid.snap((1.0, 1.5, 1 + tenth / 10)) for tenth in count())
    name, digest = checkpoint.manifest.name, checkpoint.digest
    with tempfile.TemporaryDirectory() as folder:
        server = EmbeddedServer.start(Path(folder), CACHE_OPTIONS)
        try:
            redis = connect_cache(server.redis_url)
            cache, orders = WeightCache(redis), NetworkOrders(redis)
            factory = WeightFactory(lambda *_: checkpoint, cache, orders, device, capacity=16)
            samples = interleaved(
                {
                    "network": lambda: factory.network(name, digest, next(unseen)),
                    "weights": lambda: checkpoint.hypernetwork.generate(next(unseen)),
                }
            )
        finally:
            server.stop()
    beyond = tuple(
        1000 * (network - weights)
        for network, weights in zip(samples["network"].wall_s, samples["weights"].wall_s, strict=True)
    )
    return Row(
        name=ANOTHER_SPACING,
        value=median(beyond),
        unit="ms",
        spread=quartiles(beyond),
        aim=aim,
    )


@area("load", "Loading a checkpoint")
def load() -> Iterator[Row]:
    keep_freed_memory()  # as a worker does
    with tempfile.TemporaryDirectory(dir=paper_size().parent) as folder:
        shared = SharedCopies(Path(folder))
        for path in (paper_size(), HIPPOCAMPUS):
            load_checkpoint(path, shared=shared)  # makes the copy, as the worker does that starts first
        yield _loading("paper size, 679 MB", paper_size(), at_most(1.3), "3.2")
        yield _loading("hippocampus-mr, 24 MB", HIPPOCAMPUS, at_most(3), "16")
        yield _loading("paper size, from the copy that workers share", paper_size(), at_most(1.3), "", shared)
        yield _loading("hippocampus-mr, from the copy that workers share", HIPPOCAMPUS, at_most(3), "", shared)


def _loading(name: str, path: Path, aim: Bound, before: str, shared: SharedCopies | None = None) -> Row:
    """The round that does not count takes the file's digest, as a worker's list of models does before it loads any, and
    learns the shapes of its architecture.
    """
    against = "reading its bytes"
    buffer = bytearray(path.stat().st_size)
    contestants: dict[str, Callable[[], object]] = {
        "load": lambda: load_checkpoint(path, shared=shared),
        against: lambda: _read_into(path, buffer),
    }
    return timed_row(name, interleaved(contestants, rounds=5), "load", against, aim=aim, before=before)


def _read_into(path: Path, buffer: bytearray) -> None:
    with path.open("rb") as file:
        file.readinto(buffer)


def read_once(hypernetwork: Hypernetwork) -> Tensor:
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
