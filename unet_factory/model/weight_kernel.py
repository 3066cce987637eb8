"""``make_weights.c``, the compiled kernel that makes a network's weights on a CPU."""

import ctypes
import logging
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

log = logging.getLogger(__name__)

LIBRARY = Path(__file__).with_name("_make_weights.so")
_KINDS = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}  # as in the source
_Pointer, _Count, _Int = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
FUNCTIONS = ("make_weights", "make_weights_anywhere")
_ARGUMENTS = (_Int, _Pointer, _Pointer, _Pointer, _Count, _Count, _Int, _Pointer)


def suits(heads: Tensor, bias: Tensor) -> bool:
    """Whether there is a kernel for these heads and this bias."""
    known = heads.is_cpu and heads.is_contiguous() and heads.dtype in _KINDS and is_plain(bias)
    return known and isinstance(library(), ctypes.CDLL)


def is_plain(tensor: Tensor) -> bool:
    """Whether the kernel can read and write it."""
    return tensor.is_cpu and tensor.is_contiguous() and tensor.dtype == torch.float32


def make_weights(
    heads: Tensor, bias: Tensor, features: Tensor, out: Tensor, *, bounded: bool, name: str = FUNCTIONS[0]
) -> None:
    """Write ``bias + heads @ features``, or ``5 tanh`` of it, into ``out``; Python's lock is released meanwhile.

    Args:
        heads: (rows, features), float32, float16 or bfloat16.
        bias: (rows,), as :func:`suits` demands.
        features: (features,), float32.
        out: (rows,), float32.
        name: one of :data:`FUNCTIONS`, which give the same bytes; the second needs no particular processor.

    Raises:
        RuntimeError: other shapes or types, as from PyTorch.
    """
    if heads.shape != (len(out), len(features)) or bias.shape != out.shape:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in (heads, bias, features, out))
        raise RuntimeError(f"size mismatch of heads, bias, features and weights: {shapes}")
    if not (suits(heads, bias) and is_plain(features) and is_plain(out)):
        raise RuntimeError("the kernel is for contiguous tensors on a CPU, all float32 but for the heads")
    function = getattr(library(), name)
    rows, count = heads.shape
    pointers = (tensor.data_ptr() for tensor in (heads, features, bias))
    function(_KINDS[heads.dtype], *pointers, rows, count, bounded, out.data_ptr())


@cache
def library() -> ctypes.CDLL | OSError:
    """The library, or why there is none; the log tells once who makes this process's networks."""
    try:
        loaded = ctypes.CDLL(str(LIBRARY))
    except OSError as error:
        log.warning(
            "networks are made by PyTorch alone, which takes several times as long as the compiled kernel: install GCC "
            "12 or Clang, then the package again (%s)",
            error,
        )
        return error
    for name in FUNCTIONS:
        function = getattr(loaded, name)
        function.argtypes, function.restype = _ARGUMENTS, None
    log.info("networks are made by the compiled kernel")
    return loaded
