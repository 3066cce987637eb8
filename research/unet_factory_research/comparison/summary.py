"""From rows of scores to what a reader wants to know: means with intervals, paired tests, curves, expectations."""

import math
from collections.abc import Hashable
from dataclasses import asdict
from typing import Any

import pandas as pd

from unet_factory.domain.spacing import SpacingMm
from unet_factory_research.comparison.config import Comparison, CostConfig
from unet_factory_research.comparison.scoring import MEASURES, SPACING_COLUMNS
from unet_factory_research.comparison.statistics import far_out, holm, mean_over_subjects, paired_p_value

Records = list[dict[str, Any]]


def summarise(
    comparison: Comparison, scores: pd.DataFrame, cost: pd.DataFrame | None, learning: pd.DataFrame
) -> dict[str, Any]:
    """Everything that the page and the figures say, as JSON can hold it.

    A case is a scan at a spacing, by one seed: its score is the mean over labels that the reference has. A subject's
    score by a seed is the mean over its cases; several frames of a patient are one subject.
    """
    of_case = ["arm", "seed", "region", "subject", "scan", *SPACING_COLUMNS]
    cases = scores.groupby(of_case, as_index=False)[MEASURES].mean()
    if comparison.folds is not None:  # each subject is scored by the trainings that left it out: one value for each
        cases = cases.assign(seed=0)
    subjects = cases.groupby(["arm", "seed", "region", "subject"], as_index=False)[MEASURES].mean()
    differences = _differences(comparison, subjects)
    return {
        "name": comparison.name,
        "title": comparison.title,
        "reference": comparison.reference,
        "arms": _present(comparison, scores),
        "subjects": int(scores["subject"].nunique()),
        "scans": int(scores["scan"].nunique()),
        "regions": _regions(comparison, scores, cases, subjects),
        "differences": differences,
        "curves": _curves(comparison, cases),
        "expectations": _expectations(comparison, differences),
        "training": _training(comparison, learning),
        "cost": None if comparison.cost is None or cost is None else _cost(comparison, comparison.cost, cost),
    }


def _regions(comparison: Comparison, scores: pd.DataFrame, cases: pd.DataFrame, subjects: pd.DataFrame) -> Records:
    """Per region and arm; ``std`` over cases, as in the paper's Table 2, the interval of the mean over subjects."""
    rows = []
    for region in comparison.regions:
        for arm in _present(comparison, scores):
            own_scores, own_cases, own_subjects = (
                table[(table["arm"] == arm) & (table["region"] == region)] for table in (scores, cases, subjects)
            )
            per_label = own_scores.groupby("label")["dice"].mean()
            row: dict[str, Any] = {"region": region, "arm": arm}
            row["missed"] = int((own_scores["volume_bias"] == -1).sum())
            row["label_dice"] = {str(label): _number(value) for label, value in per_label.items()}
            for measure in MEASURES:
                estimate = asdict(mean_over_subjects(_by_seed(own_subjects, measure)))
                numbers = {**estimate, "std": float(own_cases[measure].std())}
                row[measure] = {name: _number(value) for name, value in numbers.items()}
            rows.append(row)
    return rows


def _differences(comparison: Comparison, subjects: pd.DataFrame) -> Records:
    """The reference arm minus each other, subject by subject, in Dice and HD95; p values by Holm within a measure.

    Seeds are paired by their number. ``p``, ``median`` and ``outliers`` are of a subject's mean over seeds.
    """
    reference, present = comparison.reference, _present(comparison, subjects)
    rows: Records = []
    for measure in ("dice", "hd95_mm") if reference in present else ():
        family: Records = []
        for region in comparison.regions:
            tables = {arm: _by_seed(own, measure) for arm, own in _of_region(subjects, region).groupby("arm")}
            for arm in present:
                if arm != reference and {arm, reference} <= set(tables):
                    difference = _difference(tables[reference], tables[arm])
                    family.append({"region": region, "against": arm, "measure": measure, **difference})
        adjusted = holm([row["p"] for row in family])
        rows += [{**row, "p_holm": p_holm} for row, p_holm in zip(family, adjusted, strict=True)]
    estimates = ("mean", "low", "high", "median", "p", "p_holm")
    return [{**row, **{name: _number(row[name]) for name in estimates}} for row in rows]


def _difference(reference: pd.DataFrame, other: pd.DataFrame) -> dict[str, Any]:
    paired = (reference - other).dropna(axis="columns", how="all").dropna()
    per_subject = paired.mean(axis=1)
    return {
        **asdict(mean_over_subjects(paired)),
        "median": float(per_subject.median()),
        "p": paired_p_value(per_subject.tolist()),
        "subjects": len(paired),
        "outliers": far_out({str(name): float(value) for name, value in per_subject.items()}),
    }


def _of_region(table: pd.DataFrame, region: str) -> pd.DataFrame:
    return table[table["region"] == region]


def _by_seed(subjects: pd.DataFrame, measure: str) -> pd.DataFrame:
    """(subjects, seeds)"""
    return subjects.pivot_table(index="subject", columns="seed", values=measure, dropna=False)


def _curves(comparison: Comparison, cases: pd.DataFrame) -> Records:
    """Per segment, arm and spacing: the mean over subjects of every measure, with its interval."""
    per_subject = cases.groupby(["arm", "seed", "region", *SPACING_COLUMNS, "subject"], as_index=False)[MEASURES].mean()
    rows = []
    for segment in comparison.segments:
        along = per_subject[per_subject["region"] == segment.region]
        for (arm, *spacing_mm), group in along.groupby(["arm", *SPACING_COLUMNS]):
            row: dict[str, Any] = {"segment": segment.name, "arm": arm, "spacing_mm": spacing_mm}
            row["subjects"] = int(group["subject"].nunique())
            for measure in MEASURES:
                estimate = mean_over_subjects(_by_seed(group, measure))
                row[measure] = [_number(value) for value in (estimate.mean, estimate.low, estimate.high)]
            rows.append(row)
    return rows


def _expectations(comparison: Comparison, differences: Records) -> Records:
    found = {(row["region"], row["against"]): row for row in differences if row["measure"] == "dice"}
    rows = []
    for expected in comparison.expectations:
        for region in expected.regions:
            row = found.get((region, expected.against))
            if row is not None and row["mean"] is not None:
                rows.append({**row, "at_least": expected.at_least, "met": row["mean"] >= expected.at_least})
    return rows


def _training(comparison: Comparison, learning: pd.DataFrame) -> Records:
    """Per trained arm the mean over seeds of what a whole training took; nothing where runs have no table of it."""
    if learning.empty:
        return []
    costs = ["iteration", "voxels", "seconds", "cpu_seconds"]
    ends = learning.groupby(["arm", "seed"], as_index=False)[costs].max()
    rows: Records = []
    for arm in _present(comparison, ends):
        own = ends[ends["arm"] == arm]
        rows.append({"arm": arm, "trainings": len(own), **{cost: _number(float(own[cost].mean())) for cost in costs}})
    return rows


def _cost(comparison: Comparison, config: CostConfig, cost: pd.DataFrame) -> dict[str, Any]:
    """The rows, and how many times less the reference arm needs."""
    rows = cost.to_dict(orient="records")

    def row_of(arm: str, spacing_mm: SpacingMm) -> dict[Hashable, Any]:
        return next(row for row in rows if (row["arm"], *(row[name] for name in SPACING_COLUMNS)) == (arm, *spacing_mm))

    cheap, dear = row_of(comparison.reference, config.at_mm), row_of(config.against, config.against_mm)
    times = {measure: float(dear[measure] / cheap[measure]) for measure in ("seconds", "cpu_seconds", "peak_bytes")}
    return {
        "rows": rows,
        "at_mm": list(config.at_mm),
        "against": config.against,
        "against_mm": list(config.against_mm),
        "extent_mm": list(config.extent_mm),
        "expected_times": config.times,
        "times": times,
        "met": all(times[measure] >= config.times for measure in ("seconds", "peak_bytes")),
    }


def _present(comparison: Comparison, table: pd.DataFrame) -> list[str]:
    """The arms that were scored, in the comparison's order."""
    known = set(table["arm"])
    return [arm for arm in comparison.arms if arm in known]


def _number(value: float) -> float | None:
    """JSON has no NaN."""
    return None if math.isnan(value) else float(f"{value:.6g}")
