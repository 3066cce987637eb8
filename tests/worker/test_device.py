"""What a job needed at its peak, in a process that has had other jobs before."""

import torch

from unet_factory_worker.device import PeakMemory

MIB = 2**20


def test_the_peak_is_that_of_this_job_alone() -> None:
    larger, smaller = 256 * MIB, 64 * MIB
    assert 0.9 * larger < peak_while_holding(larger) < 1.5 * larger
    assert 0.9 * smaller < peak_while_holding(smaller) < 1.5 * smaller


def test_memory_freed_in_small_pieces_does_not_hide_the_next_peak() -> None:
    pieces = [bytearray(64 * 1024) for _ in range(2000)]
    del pieces
    assert peak_while_holding(64 * MIB) > 0.9 * 64 * MIB


def peak_while_holding(size_bytes: int) -> int:
    memory = PeakMemory(torch.device("cpu"))
    torch.ones(size_bytes, dtype=torch.uint8)
    return memory.read()
