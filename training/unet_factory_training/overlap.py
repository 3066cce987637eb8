"""Backward passes on two cores that never wait for each other: the gradients of a convolution's weights are worked out
on a second thread while autograd goes on to the layer before.

They are more than a third of a step, and nothing but the step's end needs them. Threads within a layer would have to
meet after each of some thousand loops, and lose more than they gain where other processes use the cores too.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from unet_factory.model.hypernetwork import Weights


class _Geometry(NamedTuple):
    """What PyTorch's own convolution takes after input, weight and bias."""

    stride: Sequence[int]
    padding: Sequence[int]
    dilation: Sequence[int]
    transposed: bool
    output_padding: Sequence[int]
    groups: int


class OverlappedConvolutions(TorchFunctionMode):
    """While it is active, convolutions leave the gradients of their weights and biases to a second thread.

    The weights must be those that :meth:`joined` returned, each for one convolution. Where PyTorch has one thread the
    values are bit by bit the same as without it; each thread then has a core of its own.
    """

    def __init__(self) -> None:
        super().__init__()
        self._thread = ThreadPoolExecutor(1, "weight-gradients", initializer=torch.set_num_threads, initargs=(1,))
        self._pending: list[Future[None]] = []

    def joined(self, weights: Weights) -> Weights:
        """The same weights, whose gradients are only passed on when all are there."""
        joined = _Join.apply(self, *weights.values())  # type: ignore[no-untyped-call]
        return dict(zip(weights, joined, strict=True))

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in (functional.conv2d, functional.conv3d):
            images, weight, bias, stride, padding, dilation, groups = args
            geometry = _Geometry(stride, padding, dilation, False, (0,) * len(dilation), groups)
        elif func in (functional.conv_transpose2d, functional.conv_transpose3d):
            images, weight, bias, stride, padding, output_padding, groups, dilation = args
            geometry = _Geometry(stride, padding, dilation, True, output_padding, groups)
        else:
            return func(*args, **(kwargs or {}))
        device = images.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else images.dtype
        with torch.autocast(device, enabled=False):
            return _Convolution.apply(self, images.to(dtype), weight, bias, geometry)  # type: ignore[no-untyped-call]

    def submit(self, work: Callable[..., None], *arguments: Any) -> None:
        self._pending.append(self._thread.submit(work, *arguments))

    def wait(self) -> None:
        """Until all that was submitted is done; what went wrong there is raised here."""
        pending, self._pending = self._pending, []
        for future in pending:
            future.result()


class _Join(torch.autograd.Function):
    """Identity; its backward pass waits for the second thread."""

    @staticmethod
    def forward(ctx: Any, overlapped: OverlappedConvolutions, *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.overlapped = overlapped
        return tuple(weight.view_as(weight) for weight in weights)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        ctx.overlapped.wait()
        return (None, *gradients)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, overlapped: OverlappedConvolutions, images: Tensor, weight: Tensor, bias: Tensor, geometry: _Geometry
    ) -> Tensor:
        ctx.overlapped, ctx.geometry = overlapped, geometry
        ctx.weight_dtype, ctx.bias_shape = weight.dtype, bias.shape
        weight = weight.to(images.dtype)
        ctx.save_for_backward(images, weight)
        return torch.convolution(images, weight, bias.to(images.dtype), *geometry)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        images, weight = ctx.saved_tensors
        of_weight = torch.empty(weight.shape, dtype=ctx.weight_dtype)
        of_bias = torch.empty(ctx.bias_shape, dtype=ctx.weight_dtype)
        ctx.overlapped.submit(_write_gradients, of_weight, of_bias, gradient, images, weight, ctx.geometry)
        of_images = None
        if ctx.needs_input_grad[1]:
            of_images = _gradients(gradient, images, weight, ctx.geometry, (True, False, False))[0]
        return None, of_images, of_weight, of_bias, None


def _write_gradients(
    of_weight: Tensor, of_bias: Tensor, gradient: Tensor, images: Tensor, weight: Tensor, geometry: _Geometry
) -> None:
    with torch.no_grad():
        _, found_weight, found_bias = _gradients(gradient, images, weight, geometry, (False, True, True))
        of_weight.copy_(found_weight)
        of_bias.copy_(found_bias)


def _gradients(
    gradient: Tensor, images: Tensor, weight: Tensor, geometry: _Geometry, wanted: tuple[bool, bool, bool]
) -> tuple[Tensor, Tensor, Tensor]:
    channels_out = [weight.shape[1 if geometry.transposed else 0] * geometry.groups]
    found: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.convolution_backward(
        gradient, images, weight, channels_out, *geometry, wanted
    )
    return found
