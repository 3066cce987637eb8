"""Read at the start of a Python process whose clock libfaketime shifts, by ``PYTHONPATH``.

Python's ``time.sleep`` sleeps until a time of the monotonic clock, which libfaketime 0.9.10 refuses (EINVAL) even if it
leaves that clock alone.
"""

import select
import time
from typing import SupportsIndex


def _sleep(seconds: SupportsIndex | float) -> None:
    select.select([], [], [], float(seconds))


time.sleep = _sleep
