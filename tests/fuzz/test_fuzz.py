"""A fixed part of ``python -m tests.fuzz``."""

import pytest

from tests.fuzz.trial import trial


@pytest.mark.filterwarnings("ignore")
def test_mutated_files_are_read_as_others_read_them_or_refused() -> None:
    outcome = trial(seed=0, first=0, last=1500)
    assert outcome.faults == []
    for kind in ("nifti", "mha", "nrrd", "dicom"):
        assert outcome.counts[f"{kind}: read, equal"] > 0
        assert outcome.counts[f"{kind}: refused, not-a-volume"] > 0
