"""Validation scores over a training, as a table beside its checkpoint, with what it had cost until then."""

import csv
from collections.abc import Mapping
from pathlib import Path

from unet_factory_training.spent import Spent

VALIDATION_FILE = "validation.csv"
VALIDATION_COLUMNS = ("iteration", "voxels", "seconds", "cpu_seconds", "set", "dice")


def record_validation(run_dir: Path, iteration: int, spent: Spent, dice: Mapping[str, float]) -> None:
    """Append a line for each validation set. A resumed run may repeat an iteration; its last lines count."""
    path = run_dir / VALIDATION_FILE
    is_new = not path.exists()
    cost = iteration, spent.voxels, f"{spent.seconds:.1f}", f"{spent.cpu_seconds:.1f}"
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if is_new:
            writer.writerow(VALIDATION_COLUMNS)
        writer.writerows((*cost, name, f"{value:.5f}") for name, value in dice.items())
