"""One window through one network on a CPU: as a worker runs it, against what else could run it."""

from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from shutil import which

import torch
from torch import Tensor

from benchmarks.children import Prepare, Work, in_turns
from benchmarks.models import HIPPOCAMPUS
from benchmarks.rows import Row, area
from benchmarks.timing import timed_row
from unet_factory.domain.precision import Precision
from unet_factory.domain.spacing import SnappedSpacing
from unet_factory.model.checkpoint import load_checkpoint, parse_unet, standalone_bytes
from unet_factory.model.formats import in_format
from unet_factory.model.inference import placed
from unet_factory.model.plain_unet import PlainUNet
from unet_factory.model.unet import UNet
from unet_factory.platform.process_memory import keep_freed_memory

_ROUNDS = 5
_EXTENT = 64
_OURS = "as a worker does"
_CPU = torch.device("cpu")


@area("engines", "Engines for one window on a CPU")
def engines() -> Iterator[Row]:
    """Compiling is not counted: for a network of another spacing it comes again."""
    others = _others()
    contestants: dict[str, Prepare] = {_OURS: _worker, **others}
    samples = in_turns(contestants, rounds=_ROUNDS)
    for name in others:
        row = timed_row(f"hippocampus-mr, {_EXTENT}^3: {_OURS}", samples, _OURS, name, cpu=True)
        theirs_ms = timed_row(name, samples, name, cpu=True).value
        yield row.model_copy(update={"against": f"{name}: {theirs_ms:.0f} ms"})
    if not find_spec("openvino"):
        yield Row(name="OpenVINO", value=None, unit="ms", note="it is not installed: pip install openvino")


def _others() -> dict[str, Prepare]:
    """Those that are installed."""
    found: dict[str, Prepare] = {"PyTorch, float32": _eager, "onnxruntime, float32": _onnxruntime}
    precisions: tuple[Precision, ...] = ("float32", "bfloat16")
    for precision in precisions:
        if which("g++"):
            found[f"torch.compile, {precision}"] = partial(_compiled, precision)
        if find_spec("openvino"):
            found[f"OpenVINO, {precision}"] = partial(_openvino, precision)
    return found


def _worker() -> Work:
    keep_freed_memory()
    window, unet = _prepared()
    return _inferred(partial(placed(unet, _CPU, "bfloat16"), window))


def _eager() -> Work:
    window, unet = _prepared()
    return _inferred(partial(_plain(unet), window))


def _compiled(precision: Precision) -> Work:
    keep_freed_memory()
    window, unet = _prepared()
    network = torch.compile(_plain(unet))
    return _inferred(partial(placed(network, _CPU, precision), window.to(memory_format=torch.channels_last_3d)))


def _onnxruntime() -> Work:
    import onnxruntime

    window, _ = _prepared()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(_onnx(), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {session.get_inputs()[0].name: window.numpy()})


def _openvino(precision: Precision) -> Work:
    import openvino

    window, _ = _prepared()
    hints = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "bf16" if precision == "bfloat16" else "f32"}
    model = openvino.Core().compile_model(openvino.Core().read_model(_onnx()), "CPU", hints)
    return lambda: model(window.numpy())


def _prepared() -> tuple[Tensor, UNet]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return torch.randn(1, 1, _EXTENT, _EXTENT, _EXTENT), parse_unet(_standalone())


def _standalone() -> bytes:
    return standalone_bytes(load_checkpoint(HIPPOCAMPUS), SnappedSpacing(1000, 1000, 1000))


def _onnx() -> bytes:
    return in_format(_standalone(), "onnx", "benchmark")


def _plain(unet: UNet) -> PlainUNet:
    """The same network by PyTorch's own layers, as a factory hands it out."""
    architecture = unet.architecture
    plain = PlainUNet(
        dimensions=architecture.dimensions,
        in_channels=architecture.in_channels,
        classes=architecture.classes,
        channels=architecture.channels,
        blocks=architecture.blocks,
        strides=unet.strides,
    )
    plain.load_state_dict(unet.state_dict())
    return plain.requires_grad_(False).eval()


def _inferred(run: Callable[[], Tensor]) -> Work:
    def work() -> Tensor:
        with torch.inference_mode():
            return run()

    return work
