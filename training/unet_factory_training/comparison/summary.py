"""From rows of scores to what a reader wants to know: means with intervals, paired tests, curves, expectations."""

import math
from collections.abc import Iterable
from typing import Any

import pandas as pd

from unet_factory_training.comparison.config import NATIVE, Comparison, CostConfig
from unet_factory_training.comparison.scoring import MEASURES, SPACING_COLUMNS
from unet_factory_training.comparison.statistics import holm, mean_over_subjects, paired_p_value

Records = list[dict[str, Any]]


def summarise(comparison: Comparison, scores: pd.DataFrame, cost: pd.DataFrame | None) -> dict[str, Any]:
    """Everything that the page and the figures say, as JSON can hold it.

    A case is a scan at a spacing, by one seed: its score is the mean over labels that the reference has. A subject's
    score is the mean over its cases; several frames of a patient are one subject.
    """
    cases = scores.groupby(["arm", "seed", "region", "subject", "scan", *SPACING_COLUMNS])[MEASURES].mean()
    subjects = cases.groupby(["arm", "region", "subject"]).mean()
    differences = _differences(comparison, subjects)
    return {
        "name": comparison.name,
        "title": comparison.title,
        "reference": comparison.reference,
        "arms": [arm for arm in comparison.arms if arm in set(scores["arm"])],
        "subjects": int(scores["subject"].nunique()),
        "scans": int(scores["scan"].nunique()),
        "regions": _regions(comparison, scores, cases, subjects),
        "differences": differences,
        "curves": _curves(comparison, cases),
        "expectations": _expectations(comparison, differences),
        "cost": None if comparison.cost is None or cost is None else _cost(comparison, comparison.cost, cost),
    }


def _regions(comparison: Comparison, scores: pd.DataFrame, cases: pd.DataFrame, subjects: pd.DataFrame) -> Records:
    """Per region and arm; ``std`` over cases, as in the paper's Table 2, the interval of the mean over subjects."""
    labels = scores.groupby(["arm", "region", "label"])["dice"].mean()
    missed = (scores["volume_bias"] == -1).groupby([scores["arm"], scores["region"]]).sum()
    rows = []
    for region in (*comparison.intervals, NATIVE):
        for arm in _present(comparison, subjects):
            row: dict[str, Any] = {"region": region, "arm": arm, "missed": int(missed[arm, region])}
            row["label_dice"] = {int(label): _number(value) for label, value in labels[arm, region].items()}
            for measure in MEASURES:
                estimate = mean_over_subjects(subjects.loc[(arm, region), measure].tolist())
                spread = cases.xs((arm, region), level=("arm", "region"))[measure].std()
                row[measure] = {
                    "mean": _number(estimate.mean),
                    "low": _number(estimate.low),
                    "high": _number(estimate.high),
                    "std": _number(spread),
                }
            rows.append(row)
    return rows


def _differences(comparison: Comparison, subjects: pd.DataFrame) -> Records:
    """The reference arm minus each other, subject by subject, in Dice and HD95; p values by Holm within a measure."""
    rows: Records = []
    others = [arm for arm in _present(comparison, subjects) if arm != comparison.reference]
    if comparison.reference not in subjects.index.get_level_values("arm"):
        return rows
    for measure in ("dice", "hd95_mm"):
        family: Records = []
        for region in (*comparison.intervals, NATIVE):
            for arm in others:
                paired = subjects.loc[(comparison.reference, region), measure] - subjects.loc[(arm, region), measure]
                estimate, p_value = mean_over_subjects(paired.tolist()), paired_p_value(paired.tolist())
                interval = {"mean": estimate.mean, "low": estimate.low, "high": estimate.high, "p": p_value}
                family.append({"region": region, "against": arm, "measure": measure, "n": len(paired), **interval})
        for row, adjusted in zip(family, holm([row["p"] for row in family]), strict=True):
            numbers = {key: _number(row[key]) for key in ("mean", "low", "high", "p")}
            rows.append({**row, **numbers, "p_holm": _number(adjusted)})
    return rows


def _curves(comparison: Comparison, cases: pd.DataFrame) -> Records:
    """Per segment, arm and spacing: the mean over subjects of every measure, with its interval."""
    per_subject = cases.groupby(["arm", "region", *SPACING_COLUMNS, "subject"]).mean()
    rows = []
    for segment in comparison.segments:
        for arm in _present(comparison, per_subject):
            along = per_subject.loc[(arm, segment.region)]
            for spacing, group in along.groupby(SPACING_COLUMNS):
                row: dict[str, Any] = {"segment": segment.name, "arm": arm, "spacing_mm": list(spacing)}
                for measure in MEASURES:
                    estimate = mean_over_subjects(group[measure].tolist())
                    row[measure] = [_number(value) for value in (estimate.mean, estimate.low, estimate.high)]
                rows.append(row)
    return rows


def _expectations(comparison: Comparison, differences: Records) -> Records:
    found = {(row["region"], row["against"]): row for row in differences if row["measure"] == "dice"}
    rows = []
    for expected in comparison.expectations:
        for region in expected.regions:
            if row := found.get((region, expected.against)):
                met = row["mean"] >= expected.at_least
                rows.append({**row, "at_least": expected.at_least, "met": met})
    return rows


def _cost(comparison: Comparison, config: CostConfig, cost: pd.DataFrame) -> dict[str, Any]:
    """The rows, and how many times less the reference arm needs."""
    indexed = cost.set_index(["arm", *SPACING_COLUMNS])
    cheap = indexed.loc[(comparison.reference, *config.at_mm)]
    dear = indexed.loc[(config.against, *config.against_mm)]
    times = {measure: _number(dear[measure] / cheap[measure]) for measure in ("seconds", "cpu_seconds", "peak_bytes")}
    return {
        "rows": cost.to_dict(orient="records"),
        "at_mm": list(config.at_mm),
        "against": config.against,
        "against_mm": list(config.against_mm),
        "extent_mm": list(config.extent_mm),
        "expected_times": config.times,
        "times": times,
        "met": all(times[measure] >= config.times for measure in ("seconds", "peak_bytes")),
    }


def _present(comparison: Comparison, table: pd.DataFrame) -> Iterable[str]:
    known = set(table.index.get_level_values("arm"))
    return [arm for arm in comparison.arms if arm in known]


def _number(value: float) -> float | None:
    """JSON has no NaN."""
    return None if math.isnan(value) else float(f"{value:.6g}")
