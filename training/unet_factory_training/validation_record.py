"""Validation scores over a training, as a table beside its checkpoint: ``iteration,set,dice`` in validation.csv."""

import csv
from collections.abc import Mapping
from pathlib import Path

VALIDATION_FILE = "validation.csv"
_COLUMNS = ("iteration", "set", "dice")


def record_validation(run_dir: Path, iteration: int, dice: Mapping[str, float]) -> None:
    """Append a line for each validation set. A resumed run may repeat an iteration; its last lines count."""
    path = run_dir / VALIDATION_FILE
    is_new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if is_new:
            writer.writerow(_COLUMNS)
        writer.writerows((iteration, name, f"{value:.5f}") for name, value in dice.items())
