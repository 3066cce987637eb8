"""What a GPU makes of the same work. Without one the rows say that they were not measured."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from benchmarks.generation import ANOTHER_SPACING, FLOOR, WEIGHTS, another_spacing, read_once
from benchmarks.models import paper_size
from benchmarks.rows import Row, area, at_most
from benchmarks.timing import interleaved, timed_row
from unet_factory.model.checkpoint import Checkpoint, load_checkpoint
from unet_factory.model.inference import placed
from unet_factory.model.precision import pick_precision
from unet_factory.model.unet import LayerByLayerUNet, unet_of

_WINDOW, _EAGER = "one window of 128x128x128, paper size", "eager float32"
_WITHIN, _BESIDE_EAGER, _BESIDE_FLOOR, _ANOTHER = at_most(3), at_most(0.25), at_most(1.3), at_most(5)


@area("gpu", "On a GPU")
def gpu() -> Iterator[Row]:
    if not torch.cuda.is_available():
        for name, unit, aim in (
            (_WINDOW, "ms", _WITHIN),
            (f"{_WINDOW}, against {_EAGER}", "", _BESIDE_EAGER),
            (f"{WEIGHTS}, against {FLOOR}", "", _BESIDE_FLOOR),
            (ANOTHER_SPACING, "ms", _ANOTHER),
        ):
            yield Row(name=name, value=None, unit=unit, aim=aim, note="no GPU was there")
        return
    device = torch.device("cuda")
    card = torch.cuda.get_device_name(device)
    checkpoint = load_checkpoint(paper_size(), device)
    for row in (*_window(checkpoint, device), *_weights(checkpoint), another_spacing(checkpoint, device, _ANOTHER)):
        yield row.model_copy(update={"note": card})


def _window(checkpoint: Checkpoint, device: torch.device) -> Iterator[Row]:
    """As a worker runs it, from a window on the device to its logits."""
    snapped = checkpoint.manifest.grid.snap((1.0, 1.0, 1.0))
    weights, architecture = checkpoint.hypernetwork.generate(snapped), checkpoint.manifest.architecture
    plain = LayerByLayerUNet(architecture).to(device).requires_grad_(False).eval()
    plain.load_state_dict(weights)
    network = placed(unet_of(weights, architecture, snapped), device, pick_precision("auto", checkpoint, device))
    window = torch.randn(1, 1, 128, 128, 128, device=device)
    samples = interleaved({"ours": _finished(lambda: network(window)), _EAGER: _finished(lambda: plain(window))})
    yield timed_row(_WINDOW, samples, "ours", aim=_WITHIN)
    yield timed_row(f"{_WINDOW}, against {_EAGER}", samples, "ours", _EAGER, aim=_BESIDE_EAGER)


def _weights(checkpoint: Checkpoint) -> Iterator[Row]:
    hypernetwork, snapped = checkpoint.hypernetwork, checkpoint.manifest.grid.snap((1.0, 1.5, 2.0))
    generate = _finished(lambda: next(iter(hypernetwork.generate(snapped).values())))
    samples = interleaved({"ours": generate, FLOOR: _finished(lambda: read_once(hypernetwork))})
    yield timed_row(f"{WEIGHTS}, against {FLOOR}", samples, "ours", FLOOR, aim=_BESIDE_FLOOR)


def _finished(work: Callable[[], Tensor]) -> Callable[[], None]:
    """Wait until the device has done it."""

    def run() -> None:
        with torch.inference_mode():
            work()
        torch.cuda.synchronize()

    return run
