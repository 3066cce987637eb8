"""A step of training: against the same step as PyTorch takes it by itself, and against that of a plain U-Net."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from itertools import pairwise
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from monai.losses import DiceCELoss
from torch import Tensor, nn
from torch.func import functional_call

from benchmarks.rows import Bound, Row, area, at_most
from benchmarks.timing import Sample, timed_row
from unet_factory.domain.manifest import Architecture, HypernetworkShape, Label, Parametrization
from unet_factory.model.unet import LayerByLayerUNet, UNet, empty_unet, weight_shapes
from unet_factory.platform.process_memory import keep_freed_memory
from unet_factory_training.batch import Batch
from unet_factory_training.config import Execution, OptimisationConfig, TrainingConfig, read_config
from unet_factory_training.dataset_config import DatasetConfig
from unet_factory_training.engine import start_engine
from unet_factory_training.trainer import Trainer

# Batches as the configurations draw them: (scans, 1, r, a, s), and the spacing in mm.
_DRAWN = {
    "heart-mr": [((1, 1, 160, 160, 10), (1.55, 1.55, 10.0)), ((1, 1, 112, 80, 14), (3.0, 4.0, 7.8))],
    "hippocampus-mr": [((2, 1, 40, 56, 40), (0.9, 0.85, 1.0)), ((8, 1, 24, 32, 16), (1.6, 1.5, 2.4))],
}
_PLAIN, _UNET, _EAGER = "plain autograd", "the plain U-Net", "one thread"
_NAIVE = "the plain form of the method"
_MAIN = (
    "the CPU time of the thread that the others wait for: what a step takes where its two threads find a core each. On "
    "the clock they do not where other processes want the cores too"
)

Step = Callable[[], object]
Maker = tuple[Callable[..., Step], *tuple[object, ...]]


@area("training", "A step of training on a CPU")
def training() -> Iterator[Row]:
    for name in _DRAWN:
        samples = _in_turn(
            {"ours": (_configured, name, "overlapped", True), _PLAIN: (_configured, name, "eager", False)}
        )
        yield _main_thread(name, samples, _PLAIN, at_most(0.67), "1")
        yield timed_row(f"{name}, on the clock", samples, "ours", _PLAIN)
    for extent, rounds, aim, before in ((32, 5, at_most(1.3), "1.82"), (64, 2, None, "1")):
        name = f"paper size, 4 crops of {extent}^3"
        samples = _in_turn(
            {
                "ours": (_paper_size, extent, "overlapped", True),
                _EAGER: (_paper_size, extent, "eager", True),
                _UNET: (_plain_unet, extent, True),
                _NAIVE: (_plain_form, extent),
            },
            rounds,
        )
        yield _main_thread(name, samples, _UNET, aim, before)
        yield _main_thread(name, samples, _NAIVE, at_most(0.167) if extent == 32 else None, "")
        yield timed_row(f"{name}, both in one thread", samples, _EAGER, _UNET, cpu=True)
        yield timed_row(f"{name}, on the clock", samples, "ours", _UNET)


def _main_thread(name: str, samples: Mapping[str, Sample], against: str, aim: Bound | None, before: str) -> Row:
    return timed_row(name, samples, "ours", against, aim=aim, before=before, cpu=True, note=_MAIN)


def _in_turn(makers: Mapping[str, Maker], rounds: int = 5) -> dict[str, Sample]:
    """As :func:`benchmarks.timing.interleaved`, but each contestant in a process of its own: whether freed memory is
    kept is a property of the process. ``cpu_s`` is that of the process's main thread.
    """
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in makers}
    with ExitStack() as stack:
        children = {name: stack.enter_context(closing(_Child(*maker))) for name, maker in makers.items()}
        for number in range(rounds + 1):
            for name, child in children.items():
                seconds = child.step()
                if number:
                    taken[name].append(seconds)
    return {name: Sample(*map(tuple, zip(*seconds, strict=True))) for name, seconds in taken.items()}


class _Child:
    """A process that prepares itself by calling ``maker``, then takes steps when asked."""

    def __init__(self, maker: Callable[..., Step], *arguments: object) -> None:
        context = get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, maker, arguments), daemon=True)
        self._process.start()

    def step(self) -> tuple[float, float]:
        """Seconds on the clock, and of the main thread's CPU time."""
        self._connection.send(True)
        wall_s, cpu_s = self._connection.recv()
        return wall_s, cpu_s

    def close(self) -> None:
        self._connection.send(False)
        self._process.join()


def _serve(connection: Connection, maker: Callable[..., Step], arguments: Sequence[object]) -> None:
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    step = maker(*arguments)
    while connection.recv():
        wall, cpu = time.perf_counter(), time.thread_time()
        step()
        connection.send((time.perf_counter() - wall, time.thread_time() - cpu))


def _configured(name: str, execution: Execution, kept: bool) -> Step:
    """A step on each of the batches in ``_DRAWN``, of the configuration that ships."""
    overrides = {"start_from": None, "optimisation.execution": execution}
    return _stepping(read_config(Path("configs", f"{name}.yaml"), overrides), _DRAWN[name], kept)


def _paper_size(extent: int, execution: Execution, kept: bool) -> Step:
    config = TrainingConfig(
        name="paper",
        dataset=DatasetConfig(root="none"),
        architecture=_PAPER,
        hypernetwork=HypernetworkShape(parametrization=Parametrization.PAPER, hidden=(10, 10, 50)),
        trained_range_mm=((1, 3), (1, 3), (1, 3)),
        labels=(Label(value=0, name="background"), Label(value=1, name="tumour core")),
        licence="CC0-1.0",
        optimisation=OptimisationConfig(
            iterations=1000,
            schedule="constant",
            warmup=0,
            ema_decay=0,
            clip_norm=None,
            precision="float32",
            execution=execution,
        ),
    )
    return _stepping(config, [((4, 1, *(extent,) * 3), (1.0, 1.5, 2.0))], kept)


_PAPER = Architecture(classes=2, channels=(16, 32, 64, 128), blocks=3)


def _stepping(config: TrainingConfig, drawn: Sequence[tuple[tuple[int, ...], tuple[float, ...]]], kept: bool) -> Step:
    if kept:
        keep_freed_memory()
    trainer = Trainer(config, start_engine(config, "cpu"))
    batches = [_batch(shape, mm, config) for shape, mm in drawn]
    return lambda: [trainer.step([batch]) for batch in batches]


def _batch(shape: tuple[int, ...], mm: Sequence[float], config: TrainingConfig) -> Batch:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(config.architecture.classes, shape, generator=generator)
    names = tuple(f"scan {index}" for index in range(shape[0]))
    return Batch(torch.randn(shape, generator=generator), labels, config.grid.snap(mm), names)


def _plain_unet(extent: int, kept: bool) -> Step:
    """The same U-Net with weights of its own: no hypernetwork, hence no spacing."""
    if kept:
        keep_freed_memory()
    torch.manual_seed(0)
    unet = UNet(_PAPER)
    adam = torch.optim.Adam(unet.parameters(), lr=1e-3, fused=True)
    loss = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=True)
    images, labels = torch.randn(4, 1, *(extent,) * 3), torch.randint(2, (4, 1, *(extent,) * 3))

    def step() -> None:
        adam.zero_grad(set_to_none=True)
        loss(unet(images), labels).backward()
        adam.step()

    return step


def _plain_form(extent: int) -> Step:
    """As the paper describes it (section 3.1), and as its authors draw: a linear layer for each tensor of the U-Net, a
    spacing for each crop.
    """
    torch.manual_seed(0)
    unet = empty_unet(_PAPER, kind=LayerByLayerUNet)
    widths = pairwise((3, 10, 10, 50))
    hidden = nn.Sequential(*(layer for width in widths for layer in (nn.Linear(*width), nn.ReLU())))
    heads = nn.ModuleList(nn.Linear(50, shape.numel()) for shape in weight_shapes(_PAPER).values())
    adam = torch.optim.Adam([*hidden.parameters(), *heads.parameters()], lr=1e-3)
    loss = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=True)
    images, labels = torch.randn(4, 1, *(extent,) * 3), torch.randint(2, (4, 1, *(extent,) * 3))
    spacings_mm = torch.rand(4, 3) * 2 + 1

    def logits(image: Tensor, spacing_mm: Tensor) -> Tensor:
        features = hidden(spacing_mm)
        named = zip(weight_shapes(_PAPER).items(), heads, strict=True)
        weights = {name: (5 * torch.tanh(head(features))).view(shape) for (name, shape), head in named}
        made: Tensor = functional_call(unet, weights, (image[None],))
        return made

    def step() -> None:
        adam.zero_grad()
        each = zip(images, spacings_mm, strict=True)
        loss(torch.cat([logits(*one) for one in each]), labels).backward()
        adam.step()

    return step
