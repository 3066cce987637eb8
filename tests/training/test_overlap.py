"""Gradients that a second thread works out are, bit by bit, those of plain autograd."""

from collections.abc import Iterator
from typing import Literal

import pytest
import torch

from unet_factory.domain.manifest import Architecture, HypernetworkShape, Pooling
from unet_factory.domain.spacing import SpacingGrid
from unet_factory.model.hypernetwork import Hypernetwork
from unet_factory_training.network import SpacingConditionedUNet
from unet_factory_training.overlap import OverlappedConvolutions

GRID = SpacingGrid.from_mm(0.05, [(0.5, 3.5)] * 3)
ARCHITECTURE = Architecture(classes=3, channels=(16, 16, 16), blocks=2, pooling=Pooling(anisotropy=2))


@pytest.fixture
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def gradients(
    execution: Literal["eager", "overlapped"], images: torch.Tensor, mm: tuple[float, float, float], dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """Of all the hypernetwork's parameters; those of the third of three passes through one network."""
    torch.manual_seed(0)
    network = SpacingConditionedUNet(Hypernetwork(ARCHITECTURE, HypernetworkShape(hidden=(8, 8)), GRID), execution)
    for _ in range(3):
        network.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            logits = network(images.to(dtype), GRID.snap(mm))[0].float()
        (logits * torch.linspace(-1, 1, logits.numel()).view_as(logits)).square().mean().backward()
    return {name: parameter.grad for name, parameter in network.named_parameters() if parameter.grad is not None}


@pytest.mark.usefixtures("_one_thread")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("extents", "mm"), [((16, 16, 16), (1.0, 1.0, 1.0)), ((32, 24, 8), (1.0, 1.0, 3.0))])
def test_gradients_are_those_of_plain_autograd(
    dtype: torch.dtype, extents: tuple[int, int, int], mm: tuple[float, float, float]
) -> None:
    images = torch.randn(2, 1, *extents, generator=torch.Generator().manual_seed(1))
    plain, overlapped = (gradients(execution, images, mm, dtype) for execution in ("eager", "overlapped"))
    assert plain.keys() == overlapped.keys()
    for name, gradient in plain.items():
        assert gradient.abs().sum() > 0, name
        assert torch.equal(overlapped[name], gradient), name


@pytest.mark.usefixtures("_one_thread")
def test_the_second_thread_does_the_weights_of_every_convolution(monkeypatch: pytest.MonkeyPatch) -> None:
    submitted: list[torch.Size] = []
    submit = OverlappedConvolutions.submit

    def recorded(self: OverlappedConvolutions, *work: object) -> None:
        submitted.append(work[1].shape)  # type: ignore[attr-defined]
        submit(self, *work)  # type: ignore[arg-type]

    monkeypatch.setattr(OverlappedConvolutions, "submit", recorded)
    gradients("overlapped", torch.randn(1, 1, 16, 16, 16), (1.0, 1.0, 1.0), torch.float32)
    network = Hypernetwork(ARCHITECTURE, HypernetworkShape(hidden=(8, 8)), GRID)
    kernels = [shape for shape in network.weight_shapes.values() if len(shape) == 5]
    assert sorted(submitted) == sorted(kernels * 3)


@pytest.mark.usefixtures("_one_thread")
def test_what_goes_wrong_on_the_second_thread_ends_the_backward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise MemoryError("no room for a gradient")

    monkeypatch.setattr("unet_factory_training.overlap._write_gradients", broken)
    with pytest.raises(MemoryError, match="no room for a gradient"):
        gradients("overlapped", torch.randn(1, 1, 16, 16, 16), (1.0, 1.0, 1.0), torch.float32)
