"""``python -m tests.fuzz [--files 100000] [--seed 0]``: the trial in limited processes of its own, one after another.

Prints the counts and the CPU time; the exit status is 1 where a process died or a file proved a fault.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from tests.fuzz.trial import trial

_FILES_PER_PROCESS = 2000
_MEMORY_BYTES = 6 * 2**30
_CPU_S = 1800


def main() -> int:
    arguments = argparse.ArgumentParser(prog="python -m tests.fuzz")
    arguments.add_argument("--files", type=int, default=100_000)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--process", nargs=3, metavar=("FIRST", "LAST", "BEFORE_EACH"), help=argparse.SUPPRESS)
    asked = arguments.parse_args()
    if asked.process:
        return _process(asked.seed, int(asked.process[0]), int(asked.process[1]), Path(asked.process[2]))
    counts, faults, slowest_s = Counter[str](), list[str](), 0.0
    for first in range(0, asked.files, _FILES_PER_PROCESS):
        found = _in_a_process(asked.seed, first, min(first + _FILES_PER_PROCESS, asked.files))
        counts.update(found["counts"])
        faults += found["faults"]
        slowest_s = max(slowest_s, found["slowest_s"])
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    minutes = (spent.ru_utime + spent.ru_stime) / 60
    lines = [f"{count:7d} {what}" for what, count in sorted(counts.items())]
    lines += [f"{asked.files} files, {minutes:.1f} CPU minutes, the slowest {slowest_s:.2f} s, {len(faults)} faults"]
    print("\n".join(lines + faults))  # noqa: T201 (the command's output)
    return 1 if faults else 0


def _process(seed: int, first: int, last: int, before_each: Path) -> int:
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_S, _CPU_S))
    outcome = trial(seed, first, last, before_each)
    found = {"counts": outcome.counts, "faults": outcome.faults, "slowest_s": outcome.slowest_s}
    print(json.dumps(found))  # noqa: T201 (read by the parent)
    return 0


def _in_a_process(seed: int, first: int, last: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        before_each = Path(folder) / "number"
        process = ["--process", str(first), str(last), str(before_each)]
        command = [sys.executable, "-W", "ignore", "-m", "tests.fuzz", "--seed", str(seed), *process]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return dict(json.loads(done.stdout.splitlines()[-1]))
        number = before_each.read_text() if before_each.exists() else "before the first"
        fault = f"the process died ({done.returncode}) at number {number}: {done.stderr[-500:]}"
        return {"counts": {}, "faults": [fault], "slowest_s": 0.0}


if __name__ == "__main__":
    sys.exit(main())
