"""A short part of ``make torture``, of the same code: faults for some seconds, and a history without a violation."""

from pathlib import Path

import pytest

from tests.torture.figures import figures_of
from tests.torture.history import read_history
from tests.torture.run import torture

SECONDS, SEED = 15.0, 3

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(900)]


def test_seconds_of_faults_cost_no_job_and_change_no_result(tmp_path: Path) -> None:
    found = figures_of(read_history(torture(tmp_path / "output", SECONDS, SEED, retention_s=900)))
    assert found.violations == ()
    assert found.faults.total() > 0
    assert found.jobs > 0
    assert found.series > 0
