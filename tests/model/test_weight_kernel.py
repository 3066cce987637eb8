"""The compiled kernel gives what float64 and PyTorch give, in the same bytes however it is called, and reads no more
than it is given; without it PyTorch does its work, and the log says so.
"""

import ctypes
import logging
import mmap
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from unet_factory.domain.manifest import Architecture, HypernetworkShape, Parametrization
from unet_factory.domain.spacing import SnappedSpacing, SpacingGrid
from unet_factory.model import hypernetwork as module
from unet_factory.model import weight_kernel
from unet_factory.model.hypernetwork import Hypernetwork
from unet_factory.model.weight_kernel import FUNCTIONS

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
EPSILON = 2.0**-24
SPACING = SnappedSpacing(1000, 1000, 3000)

needs_kernel = pytest.mark.skipif(
    isinstance(weight_kernel.library(), OSError), reason=f"the kernel was not compiled: {weight_kernel.library()}"
)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)
functions = pytest.mark.parametrize("function", FUNCTIONS)


def weights(
    heads: Tensor, bias: Tensor, features: Tensor, *, bounded: bool = False, name: str = FUNCTIONS[0]
) -> Tensor:
    assert weight_kernel.suits(heads, bias)
    out = torch.full_like(bias, 77)
    weight_kernel.make_weights(heads, bias, features, out, bounded=bounded, name=name)
    return out


def drawn(rows: int, count: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(rows * 100 + count)
    return torch.randn(rows, count).to(dtype), torch.randn(rows), torch.randn(count)


@needs_kernel
@functions
@dtypes
@pytest.mark.parametrize("count", [0, 1, 5, 8, 13, 50])
@pytest.mark.parametrize("rows", [1, 7, 8, 9, 167])
def test_sums_are_those_of_float64_to_rounding(rows: int, count: int, dtype: torch.dtype, function: str) -> None:
    """No further off than a sum of that length may be, whatever its order."""
    heads, bias, features = drawn(rows, count, dtype)
    exact = bias.double() + heads.double() @ features.double()
    of_magnitudes = bias.double().abs() + heads.double().abs() @ features.double().abs()
    error = (weights(heads, bias, features, name=function).double() - exact).abs()
    assert bool((error <= (count + 2) * EPSILON * of_magnitudes).all())


@needs_kernel
@functions
def test_the_bound_is_five_tanh_to_four_ulp(function: str) -> None:
    magnitudes = torch.cat(
        [torch.logspace(-30, 1.2, 100_003), torch.linspace(0, 12, 100_003), torch.tensor([torch.inf])]
    )
    bias = torch.cat([magnitudes, -magnitudes])
    made = weights(torch.zeros(len(bias), 1), bias, torch.zeros(1), bounded=True, name=function)
    exact = 5 * bias.double().tanh()
    ulp = torch.nextafter(exact.float().abs(), torch.tensor(torch.inf)).double() - exact.float().abs().double()
    assert float(((made.double() - exact).abs() / ulp).max()) <= 4
    assert float(made.abs().max()) == 5
    assert torch.equal(made.sign(), bias.sign())


@needs_kernel
@functions
@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
def test_every_number_of_16_bits_is_widened_exactly(dtype: torch.dtype, function: str) -> None:
    every = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype)
    made = weights(every[:, None].contiguous(), torch.zeros(len(every)), torch.ones(1), name=function)
    torch.testing.assert_close(made, every.float(), rtol=0, atol=0, equal_nan=True)


@needs_kernel
@dtypes
@pytest.mark.parametrize("bounded", [False, True])
def test_the_bytes_are_the_same_on_any_processor_and_in_any_portions(dtype: torch.dtype, bounded: bool) -> None:
    heads, bias, features = drawn(523, 50, dtype)
    whole = weights(heads, bias, features, bounded=bounded)
    assert torch.equal(weights(heads, bias, features, bounded=bounded, name="make_weights_anywhere"), whole)
    for rows in (1, 8, 37):
        parts = zip(heads.split(rows), bias.split(rows), strict=True)
        assert torch.equal(torch.cat([weights(*part, features, bounded=bounded) for part in parts]), whole)


@needs_kernel
@dtypes
@pytest.mark.parametrize("bounded", [False, True])
@pytest.mark.parametrize("special", [torch.inf, -torch.inf, torch.nan, 3e4])
def test_what_is_infinite_or_no_number_stays_so_in_its_own_row(
    special: float, bounded: bool, dtype: torch.dtype
) -> None:
    """As in PyTorch; neither the rows before nor those after notice."""
    for place in (0, 7, 12):
        heads, bias, features = drawn(40, 13, dtype)
        heads[11, place], bias[20] = special, special
        expected = torch.addmv(bias, heads.float(), features)
        made = weights(heads, bias, features, bounded=bounded)
        torch.testing.assert_close(
            made, 5 * expected.tanh() if bounded else expected, rtol=1e-4, atol=1e-4, equal_nan=True
        )
        features[place] = special
        expected = torch.addmv(bias, heads.float(), features)
        made = weights(heads, bias, features, bounded=bounded)
        torch.testing.assert_close(
            made, 5 * expected.tanh() if bounded else expected, rtol=1e-4, atol=1e-4, equal_nan=True
        )


@needs_kernel
@dtypes
@pytest.mark.parametrize("count", [5, 8, 50])
def test_nothing_behind_the_heads_is_read(count: int, dtype: torch.dtype) -> None:
    """The page behind them may not be read: one byte from it would end this process."""
    rows, page = 41, mmap.PAGESIZE
    heads, bias, features = drawn(rows, count, dtype)
    size = heads.numel() * heads.element_size()
    pages = -(-size // page)
    with mmap.mmap(-1, (pages + 1) * page) as memory:
        guarded = torch.frombuffer(memory, dtype=dtype, offset=pages * page - size, count=heads.numel()).view(
            rows, count
        )
        guarded.copy_(heads)
        behind = ctypes.addressof(ctypes.c_char.from_buffer(memory, pages * page))
        assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(behind), page, 0) == 0
        made = weights(guarded, bias, features)
        assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(behind), page, 3) == 0
        del guarded
    assert torch.equal(made, weights(heads, bias, features))


@needs_kernel
def test_shapes_and_types_that_do_not_fit_are_refused() -> None:
    heads, bias, features = drawn(16, 5, torch.float32)
    for wrong in (
        (heads[:, 1:].contiguous(), bias, features),
        (heads, bias[1:], features),
        (heads, bias, features[1:]),
    ):
        with pytest.raises(RuntimeError, match="size mismatch"):
            weight_kernel.make_weights(*wrong, torch.empty(16), bounded=False)
    for out in (torch.empty(16, dtype=torch.float16), torch.empty(32)[::2], torch.empty(16, device="meta")):
        with pytest.raises(RuntimeError, match="contiguous tensors on a CPU"):
            weight_kernel.make_weights(heads, bias, features, out, bounded=False)
    assert not weight_kernel.suits(heads.t().contiguous().t(), bias)
    assert not weight_kernel.suits(heads, bias.double())


def paper_network() -> Hypernetwork:
    torch.manual_seed(0)
    shape = HypernetworkShape(parametrization=Parametrization.PAPER, hidden=(8, 13))
    grid = SpacingGrid.from_mm(0.05, [(0.5, 3.5)] * 3)
    return Hypernetwork(Architecture(classes=3, channels=(4, 8), blocks=1), shape, grid)


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@needs_kernel
@dtypes
def test_a_network_is_the_same_from_any_number_of_threads(
    dtype: torch.dtype, threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = paper_network()
    network.heads = torch.nn.Parameter(network.heads.to(dtype), requires_grad=False)
    flat = torch.empty_like(network.bias)
    network.generate_into(flat, SPACING)
    monkeypatch.setattr(module, "_BLOCK_ROWS", 101)
    for number in (1, 2, 3):
        torch.set_num_threads(number)
        other, half = torch.zeros_like(flat), torch.zeros_like(flat, dtype=torch.float16)
        network.generate_into(other, SPACING)
        network.generate_into(half, SPACING)
        assert torch.equal(other, flat)
        assert torch.equal(half, flat.half())


def test_without_the_kernel_pytorch_makes_networks_and_the_log_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(weight_kernel, "LIBRARY", tmp_path / "absent.so")
    monkeypatch.setattr(weight_kernel, "library", cache(weight_kernel.library.__wrapped__))
    network = paper_network()
    with caplog.at_level(logging.INFO):
        made = [network.generate(SPACING) for _ in range(2)]
    trained = network(torch.tensor(SPACING.mm))
    for name, tensor in trained.items():
        assert torch.equal(made[0][name], tensor)
        assert torch.equal(made[1][name], tensor)
    (said,) = caplog.messages
    assert "PyTorch alone" in said
    assert "absent.so" in said
    assert caplog.records[0].levelname == "WARNING"


@needs_kernel
def test_the_log_says_when_the_kernel_makes_networks(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        weight_kernel.library.__wrapped__()
    assert caplog.messages == ["networks are made by the compiled kernel"]
