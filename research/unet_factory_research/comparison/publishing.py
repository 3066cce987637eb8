"""Tables, summary, figures and page of a comparison, into its output folder and, where asked, among the documents."""

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd

from unet_factory_research.comparison.config import Comparison
from unet_factory_research.comparison.figures import draw_figures
from unet_factory_research.comparison.page import index_of, page_of
from unet_factory_research.comparison.scoring import MEASURES
from unet_factory_research.comparison.summary import summarise

SCORES_FILE, COST_FILE, LEARNING_FILE = "scores.csv", "cost.csv", "learning.csv"
_SUMMARY_FILE, _SUBJECTS_FILE = "summary.json", "subjects.csv"
_BY_HAND = "<!-- by hand -->", "<!-- /by hand -->"


def write_report(comparison: Comparison, output: Path, learning: pd.DataFrame) -> None:
    """Write everything that follows from ``scores.csv`` and ``cost.csv`` in ``output``, beside them."""
    scores, cost = pd.read_csv(output / SCORES_FILE), output / COST_FILE
    summary = summarise(comparison, scores, pd.read_csv(cost) if cost.exists() else None, learning)
    trained = comparison.training_config(comparison.reference, comparison.seeds[0]).trained_range_mm
    page, assets = output / f"{comparison.name}.md", output / comparison.name
    figures = draw_figures(comparison, summary, learning, trained, assets)
    page.write_text(page_of(comparison, summary, command_of(comparison.name), figures))
    (assets / _SUMMARY_FILE).write_text(json.dumps(summary, indent=1, allow_nan=False) + "\n")
    _write(_per_subject(scores), assets / _SUBJECTS_FILE)
    _write(learning, assets / LEARNING_FILE)
    if cost.exists():
        shutil.copy(cost, assets / COST_FILE)


def publish_report(comparison: Comparison, output: Path, folder: Path) -> None:
    """Copy page, figures and small tables to ``folder`` and write the index of all that it holds to ``folder.md``.

    What stands there between ``<!-- by hand -->`` and ``<!-- /by hand -->`` is kept.
    """
    assets = folder / comparison.name
    shutil.rmtree(assets, ignore_errors=True)
    shutil.copytree(output / comparison.name, assets)
    shutil.copy(output / f"{comparison.name}.md", folder)
    summaries: dict[str, dict[str, Any]] = {
        path.parent.name: json.loads(path.read_text()) for path in sorted(folder.glob(f"*/{_SUMMARY_FILE}"))
    }
    commands = {name: command_of(name) for name in summaries}
    index = folder.with_suffix(".md")
    index.write_text(index_of(summaries, commands, folder.name, _written_by_hand(index)))


def command_of(name: str) -> str:
    """How the results were made."""
    return f"unet-factory compare research/configs/{name}.yaml --output runs/compare/{name} --publish docs/results"


def _written_by_hand(index: Path) -> str:
    start, end = _BY_HAND
    _, found, rest = (index.read_text() if index.is_file() else "").partition(start)
    return f"{start}{rest.partition(end)[0]}{end}" if found else ""


def _per_subject(scores: pd.DataFrame) -> pd.DataFrame:
    """What the statistics rest on, one row per subject: small enough to keep."""
    return scores.groupby(["arm", "seed", "region", "subject", "label"], sort=False)[MEASURES].mean().reset_index()


def _write(table: pd.DataFrame, path: Path) -> None:
    table.to_csv(path, index=False, float_format="%.5g")
