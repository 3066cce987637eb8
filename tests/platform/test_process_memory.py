"""Freed memory is kept for the next allocation, and goes back to the system when it is told to."""

import os
import subprocess
import sys

import pytest

SCRIPT = """
import ctypes, resource
from unet_factory.platform.process_memory import keep_freed_memory, reset_peak_bytes, return_freed_memory

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p

def faults_of_filling(mib: int) -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = ctypes.c_void_p(libc.malloc(ctypes.c_size_t(mib * 2**20)))
    ctypes.memset(block, 1, mib * 2**20)
    libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

if {keep}:
    keep_freed_memory()
idle = reset_peak_bytes()
first, second = faults_of_filling(128), faults_of_filling(128)
return_freed_memory()
print(first, second, faults_of_filling(128), reset_peak_bytes() - idle)
"""


@pytest.mark.skipif(not hasattr(os, "confstr") or "CS_GNU_LIBC_VERSION" not in os.confstr_names, reason="needs glibc")
def test_freed_memory_is_kept_until_it_is_returned() -> None:
    first, kept, after_return, left = measured(keep=True)
    assert kept < first / 20, "the second block must lie where the first one did"
    assert after_return > first / 2, "what was returned must be mapped anew"
    assert left < 16 * 2**20
    first, not_kept, *_ = measured(keep=False)
    assert not_kept > first / 2, "this test would see memory that is kept without being asked for"


def measured(*, keep: bool) -> tuple[int, ...]:
    """Page faults of filling 128 MiB for the first time, the second, and after the return; bytes still resident."""
    command = [sys.executable, "-c", SCRIPT.format(keep=keep)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return tuple(int(number) for number in output.split())
