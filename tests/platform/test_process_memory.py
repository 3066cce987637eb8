"""Freed memory is kept for the next allocation, and goes back to the system when it is told to."""

import os
import subprocess
import sys

import pytest

SCRIPT = """
import resource
import numpy as np
from unet_factory.platform.process_memory import keep_freed_memory, reset_peak_bytes, return_freed_memory

def faults_of_filling(mib: int) -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.full(mib * 2**20, 1, dtype=np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

np.ones(1)
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
    assert kept < first / 20, "the second array must lie where the first one did"
    assert after_return > 0.9 * first, "what was returned must be mapped anew"
    assert left < 16 * 2**20
    _, not_kept, *_ = measured(keep=False)
    assert not_kept > 0.9 * first, "this test would see memory that is kept without being asked for"


def measured(*, keep: bool) -> tuple[int, ...]:
    """Page faults of filling 128 MiB for the first time, the second, and after the return; bytes still resident."""
    command = [sys.executable, "-c", SCRIPT.format(keep=keep)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return tuple(int(number) for number in output.split())
