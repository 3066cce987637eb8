"""From a scan to its label map on a CPU: against plain float32, against PyTorch's own interpolation, and memory."""

import math
import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch.nn import functional

from benchmarks.children import in_turns
from benchmarks.models import HEART, HIPPOCAMPUS
from benchmarks.rows import Row, area, at_least, at_most
from benchmarks.timing import interleaved, timed_row
from unet_factory.domain.manifest import Architecture
from unet_factory.domain.precision import Precision
from unet_factory.domain.spacing import OutsidePolicy, SnappedSpacing, SpacingMm, SpacingPlan, plan_spacing
from unet_factory.model.checkpoint import load_checkpoint
from unet_factory.model.inference import Execution, segment_scan
from unet_factory.model.preprocessing import resample
from unet_factory.model.unet import LayerByLayerUNet, UNet
from unet_factory.platform.manifest_file import read_manifest
from unet_factory.platform.process_memory import keep_freed_memory, peak_bytes, reset_peak_bytes
from unet_factory.volume import read_volume

ROUNDS = 5
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")
EXAMPLES = Path("examples/hippocampus/images")
_LARGE = (512, 512, 800)


class Case(NamedTuple):
    """A shipped model on noise of a scan's shape and spacing."""

    name: str
    model: Path
    shape: tuple[int, int, int]
    spacing_mm: SpacingMm


class Way(NamedTuple):
    """``overlap`` None: as the model's manifest says. ``eager``: by :class:`LayerByLayerUNet`."""

    precision: Precision
    kept_memory: bool
    overlap: float | None = None
    eager: bool = False


CASES = {
    Case("hippocampus-mr, 64x64x64", HIPPOCAMPUS, (64, 64, 64), (1.0, 1.0, 1.0)): (0.8, 0.36),
    Case("heart-mr, 256x256x12", HEART, (256, 256, 12), (1.5, 1.5, 10.0)): (0.8, 0.31),
    Case("heart-mr, 128x128x128", HEART, (128, 128, 128), (1.5, 1.5, 5.0)): (0.8, 0.25),
}
EAGER, KEPT, FAST = Way("float32", False, 0.5, eager=True), Way("float32", True, 0.5), Way("bfloat16", True)


@area("inference", "Segmenting on a CPU")
def inference() -> Iterator[Row]:
    for case, (float32_bound, bfloat16_bound) in CASES.items():
        ways = {"eager": EAGER, "kept memory": KEPT, "as shipped": FAST}
        samples = in_turns({name: partial(_prepared, case, way) for name, way in ways.items()}, rounds=ROUNDS)
        row = partial(timed_row, samples=samples, against="eager", cpu=True)
        yield row(f"float32 with kept memory, bit-equal: {case.name}", ours="kept memory", aim=at_most(float32_bound))
        yield row(f"as a worker does: {case.name}", ours="as shipped", aim=at_most(bfloat16_bound))
    yield _fewer_windows()
    yield Row(
        name="voxels with the same label in bfloat16 as in float32, three hippocampus scans",
        value=_same_labels(),
        unit="of 1",
        aim=at_least(0.999),
    )


def _fewer_windows() -> Row:
    """Of the heart, whose windows overlap by what validation allows."""
    case, half = next(case for case in CASES if case.model == HEART), FAST._replace(overlap=0.5)
    ways = {"as shipped": FAST, "windows that overlap by half": half}
    samples = in_turns({name: partial(_prepared, case, way) for name, way in ways.items()}, rounds=ROUNDS)
    overlap = read_manifest(case.model).window_overlap
    name = f"windows that overlap by {overlap:g}: {case.name}"
    return timed_row(name, samples, "as shipped", "windows that overlap by half", aim=at_most(0.6), cpu=True)


@area("resampling", "Resampling to the scan's grid")
def resampling() -> Iterator[Row]:
    for given, wanted in (
        ((440, 440, 22), (512, 512, 22)),
        ((128, 128, 80), (256, 256, 160)),
        ((256, 256, 64), (256, 256, 160)),
    ):
        volume = torch.randn(given)
        spacing_mm = tuple(after / before for after, before in zip(wanted, given, strict=True))
        samples = interleaved(
            {
                "ours": partial(resample, volume, spacing_mm, (1.0, 1.0, 1.0), wanted),
                "interpolate": partial(functional.interpolate, volume[None, None], wanted, mode="trilinear"),
            }
        )
        name = f"{_text(given)} to {_text(wanted)}"
        yield timed_row(name, samples, "ours", "interpolate", aim=at_most(1.3), cpu=True)


@area("memory", "Memory of segmenting")
def memory() -> Iterator[Row]:
    """Paper-size channels with random weights, in windows of 64 voxels."""
    shape = (128, 128, 200)
    few, many = (_peak_in_process(shape, _architecture(classes), overlap=0.5).added for classes in (2, 100))
    voxels = math.prod(shape)
    yield Row(name=f"2 classes, {_text(shape)}", value=few / voxels, unit="B/voxel", before="109")
    yield Row(
        name=f"100 classes, {_text(shape)}",
        value=many / voxels,
        unit="B/voxel",
        against="2 classes",
        ratio=many / few,
        aim=at_most(1.25),
        before="610",
    )
    yield Row(
        name="same label from blended features as from blended logits, three hippocampus scans at 0.5 mm",
        value=_same_labels_of_features(),
        unit="of 1",
        aim=at_least(0.999),
    )


@area("large", "A large scan of many classes", on_demand=True)
def large_scan() -> Iterator[Row]:
    """By a shallow network in windows that overlap by a quarter, so that it takes minutes: neither depth nor overlap
    makes a difference to what grows with the scan and its classes.
    """
    shallow = Architecture(classes=100, channels=(16, 32), blocks=1)
    large = _peak_in_process(_LARGE, shallow, overlap=0.25)
    yield Row(
        name=f"100 classes, {_text(_LARGE)}, the whole process",
        value=large.whole / 1e9,
        unit="GB",
        aim=at_most(6),
        note=f"scan and label map are {5 * math.prod(_LARGE) / 1e9:.1f} GB of it; it took {large.seconds:.0f} s",
    )


def _text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _prepared(case: Case, way: Way) -> Callable[[], object]:
    """Segmenting noise, in a process of its own."""
    if way.kept_memory:
        keep_freed_memory()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    checkpoint, scan = load_checkpoint(case.model), torch.randn(case.shape)
    manifest = checkpoint.manifest
    plan = plan_spacing(case.spacing_mm, manifest.grid, OutsidePolicy.CLAMP)
    unet, overlap = checkpoint.hypernetwork.unet(plan.snapped), way.overlap
    execution = Execution(
        torch.device("cpu"),
        manifest.window_at(plan.snapped),
        unet.divisors,
        way.precision,
        overlap=manifest.window_overlap if overlap is None else overlap,
    )
    return partial(segment_scan, _layer_by_layer(unet) if way.eager else unet, scan, plan, execution)


def _layer_by_layer(unet: UNet) -> LayerByLayerUNet:
    network = LayerByLayerUNet(unet.architecture, unet.strides)
    network.load_state_dict(unet.state_dict())
    return network.eval()


def _same_labels() -> float:
    """Mean over the example scans."""
    checkpoint, shares = load_checkpoint(HIPPOCAMPUS), []
    for path in sorted(EXAMPLES.glob("*.nii.gz")):
        scan = read_volume(path)
        plan = plan_spacing(scan.spacing_ras_mm, checkpoint.manifest.grid, OutsidePolicy.REJECT)
        unet, window = checkpoint.hypernetwork.unet(plan.snapped), checkpoint.manifest.window_at(plan.snapped)
        exact, fast = (
            segment_scan(
                unet,
                torch.from_numpy(scan.data),
                plan,
                Execution(torch.device("cpu"), window, unet.divisors, precision),
            )
            for precision in PRECISIONS
        )
        shares.append(float((exact == fast).double().mean()))
    return sum(shares) / len(shares)


def _same_labels_of_features() -> float:
    """Mean over the example scans. With classes that never win, a network has more of them than features."""
    checkpoint, shares = load_checkpoint(HIPPOCAMPUS), []
    for path in sorted(EXAMPLES.glob("*.nii.gz")):
        scan = read_volume(path)
        plan = plan_spacing(scan.spacing_ras_mm, checkpoint.manifest.grid, OutsidePolicy.REJECT, (0.5, 0.5, 0.5))
        unet, window = checkpoint.hypernetwork.unet(plan.snapped), checkpoint.manifest.window_at(plan.snapped)
        execution = Execution(torch.device("cpu"), window, unet.divisors, "bfloat16")
        few, many = (
            segment_scan(network, torch.from_numpy(scan.data), plan, execution) for network in (unet, _widened(unet))
        )
        shares.append(float((few == many).double().mean()))
    return sum(shares) / len(shares)


def _widened(unet: UNet) -> UNet:
    """The same network with more classes than features, the further ones far below all others."""
    architecture = unet.architecture.model_copy(update={"classes": unet.architecture.channels[0] + 1})
    widened, weights = UNet(architecture, unet.strides), dict(unet.state_dict())
    further = architecture.classes - unet.architecture.classes
    weights["head.weight"] = functional.pad(weights["head.weight"], [0] * 9 + [further])
    weights["head.bias"] = functional.pad(weights["head.bias"], [0, further], value=-1e4)
    widened.load_state_dict(weights)
    return widened.eval()


def _architecture(classes: int) -> Architecture:
    return Architecture(classes=classes, channels=(16, 32, 64, 128), blocks=3)


class _Peak(NamedTuple):
    """Bytes that the work added to its process, and that the process had in all."""

    added: int
    whole: int
    seconds: float


def _peak_in_process(shape: tuple[int, int, int], architecture: Architecture, overlap: float) -> _Peak:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh:
        return fresh.submit(_peak, shape, architecture, overlap).result()


def _peak(shape: tuple[int, int, int], architecture: Architecture, overlap: float) -> _Peak:
    """Of segmenting noise of ``shape``."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    spacing = SnappedSpacing(1000, 1000, 1000)
    plan = SpacingPlan(spacing.mm, spacing.mm, spacing, out_of_range=False)
    unet = UNet(architecture).eval()
    execution = Execution(torch.device("cpu"), (64, 64, 64), unet.divisors, "bfloat16", overlap=overlap)
    segment_scan(unet, torch.randn(16, 16, 16), plan, execution)
    scan = torch.randn(shape)
    before, started = reset_peak_bytes(), time.monotonic()
    segment_scan(unet, scan, plan, execution)
    return _Peak(peak_bytes() - before, peak_bytes(), time.monotonic() - started)
