"""A short part of ``make torture``: faults for some seconds, and a history without a violation."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures.project import PROJECT
from tests.torture.figures import figures_of
from tests.torture.history import read_history

SECONDS, SEED = 15, 3

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(900)]


def test_seconds_of_faults_cost_no_job_and_change_no_result(tmp_path: Path) -> None:
    options = {"minutes": SECONDS / 60, "seed": SEED, "retention-s": 900, "output": tmp_path / "output"}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    run = subprocess.run(
        [sys.executable, "-m", "tests.torture", *words], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    found = figures_of(read_history(tmp_path / "output" / "history.jsonl"))
    assert found.violations == ()
    assert found.faults.total() > 0
    assert found.jobs > 0
    assert found.series > 0
