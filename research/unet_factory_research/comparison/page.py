"""A comparison as a page of Markdown, and the index of all pages, written from summaries alone."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from unet_factory_research.comparison.config import Comparison
from unet_factory_research.comparison.figures import LABELS
from unet_factory_research.comparison.markdown import interval, mean_std, millimetres, signed, table
from unet_factory_research.comparison.page_costs import Summary, segmentation_costs, training_costs
from unet_factory_research.comparison.statistics import CONFIDENCE, RESAMPLES

_HOW = f"""## How this is measured

- Every scan and its label map are resampled to a spacing, which stands for a scan acquired so; the arm segments the
  scan, and its label map is scored there, at the working resolution. Arms that work at another spacing resample the
  image, and the logits back.
- Each scan has random spacings of its own from every interval; all arms see the same ones.
- The score of a scan is the mean over the labels that its reference has. Frames of one patient are one subject.
- mean [interval]: {CONFIDENCE:.0%} by bootstrap ({RESAMPLES} resamples). Of one training of each arm it is over
  subjects (BCa) and **leaves out how much another training of the same arm would differ**; of several, subjects and
  trainings are both drawn anew (percentiles), and with two or three trainings it is still too narrow. std: over scans,
  spacings and seeds.
- HD95: the larger of the two directed 95th percentiles of distances between surfaces. ASSD: the mean of all those
  distances. Both in mm. A label that was missed altogether counts with the scan's diagonal, Dice 0 and volume bias -1.
- outliers: subjects whose difference lies more than three interquartile ranges beyond the quartiles.
- p: Wilcoxon's signed-rank test, two-sided, over subjects, each with its mean over trainings, so it leaves out how
  trainings differ; corrected by Holm for all tests of the same measure on this page.
"""


def page_of(comparison: Comparison, summary: Summary, command: str, figures: Sequence[str]) -> str:
    """The page; its figures lie in the folder ``NAME/`` beside it."""
    sections = [
        f"# {summary['title']}",
        f"Written by\n\n```\n{command}\n```\n\n"
        f"on {summary['scans']} scans of {summary['subjects']} subjects ({' and '.join(comparison.splits)} split), "
        f"{_trainings(comparison)} of each arm.",
        _arms(comparison, summary),
        _expectations(summary),
        _regions(summary),
        _differences(summary),
        _pictures(summary, figures),
        training_costs(summary),
        segmentation_costs(summary),
        _HOW,
    ]
    return "\n\n".join(section.strip() for section in sections if section) + "\n"


def index_of(summaries: Mapping[str, Summary], commands: Mapping[str, str], folder: str, written: str = "") -> str:
    """The page of all comparisons: what was expected of each, and what came out; pages lie in ``folder``.

    ``written``: Markdown by hand, to stand before them.
    """
    parts = ["# Results", "Every figure here stands beside the command that makes it.", written]
    for name, summary in summaries.items():
        parts += [
            f"## [{summary['title']}]({folder}/{name}.md)",
            f"```\n{commands[name]}\n```",
            _regions(summary, heading=False),
            _expectations(summary, heading=False),
        ]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def _trainings(comparison: Comparison) -> str:
    count = f"{len(comparison.seeds)} training{'s' if len(comparison.seeds) > 1 else ''}"
    folds = comparison.folds
    return count if folds is None else f"{count} (cross-validation in {folds} parts, each scored where it was left out)"


def _arms(comparison: Comparison, summary: Summary) -> str:
    rows = []
    for name, arm in ((name, comparison.arms[name]) for name in summary["arms"]):
        changes = "; ".join(f"`{key}: {value}`" for key, value in arm.overrides.items())
        network = f"that of {arm.source}" if arm.source else "its own"
        working = "native" if arm.working_mm is None else millimetres(arm.working_mm)
        rows.append([name, network, changes, working, str(arm.outside)])
    shared = "; ".join(f"`{key}: {value}`" for key, value in comparison.overrides.items())
    base = f"All arms share `configs/{comparison.base.name}`" + (f" with {shared}." if shared else ".")
    return (
        "## Arms\n\n"
        + base
        + "\n\n"
        + table(["arm", "network", "changes", "working spacing", "outside the trained range"], rows)
    )


def _expectations(summary: Summary, heading: bool = True) -> str:
    rows = [
        [
            f"Dice {row['region']}: {summary['reference']} - {row['against']}",
            f"at least {row['at_least']:+.3f}",
            f"{row['mean']:+.4f} [{signed(row['low'])}, {signed(row['high'])}]",
            _verdict(row["met"]),
        ]
        for row in summary["expectations"]
    ]
    if cost := summary["cost"]:
        at, against_at = millimetres(cost["at_mm"]), millimetres(cost["against_mm"])
        what = f"{summary['reference']} at {at} against {cost['against']} at {against_at}"
        for measure, label in (("seconds", "time"), ("peak_bytes", "peak memory")):
            times = cost["times"][measure]
            met = times >= cost["expected_times"]
            rows.append([f"{label}: {what}", f"{cost['expected_times']:g} times less", f"{times:.1f}", _verdict(met)])
    if not rows:
        return ""
    title = "## Expected and found\n\n" if heading else ""
    return title + table(["what", "expected", "found", ""], rows)


def _regions(summary: Summary, heading: bool = True) -> str:
    arms = summary["arms"]
    found = {(row["region"], row["arm"]): row for row in summary["regions"]}
    regions = list(dict.fromkeys(row["region"] for row in summary["regions"]))
    dice = [[region, *(_dice_and_distance(found[region, arm]) for arm in arms)] for region in regions]
    overview = table(["mean Dice (std), HD95", *arms], dice)
    if not heading:
        return overview
    parts = ["## Scores over intervals of spacings", overview]
    for measure in ("dice", "hd95_mm", "assd_mm", "volume_bias"):
        rows = [[region, *(interval(found[region, arm][measure]) for arm in arms)] for region in regions]
        parts.append(table([f"{LABELS[measure]}, mean [interval]", *arms], rows))
    missed = [[region, *(str(found[region, arm]["missed"]) for arm in arms)] for region in regions]
    parts.append(table(["labels missed altogether", *arms], missed))
    return "\n\n".join(parts)


def _dice_and_distance(row: Mapping[str, Any]) -> str:
    distance = row["hd95_mm"]["mean"]
    return mean_std(row["dice"]) + ("" if distance is None else f", {distance:.1f} mm")


def _differences(summary: Summary) -> str:
    rows = [
        [
            row["region"],
            row["against"],
            LABELS[row["measure"]],
            f"{signed(row['mean'])} [{signed(row['low'])}, {signed(row['high'])}]",
            signed(row["median"]),
            str(row["subjects"]),
            "" if row["p_holm"] is None else f"{row['p_holm']:.2g}",
            ", ".join(row["outliers"]),
        ]
        for row in summary["differences"]
    ]
    if not rows:
        return ""
    head = [
        "spacings",
        "against",
        "measure",
        "mean difference [interval]",
        "median",
        "subjects",
        "p (Holm)",
        "outliers",
    ]
    title = f"## {summary['reference']} minus the others, subject by subject"
    return "\n\n".join(part for part in (title, table(head, rows), _disagreements(summary)) if part)


def _disagreements(summary: Summary) -> str:
    """Where more overlap goes with surfaces that lie further apart, or the other way round."""
    found = {(row["region"], row["against"], row["measure"]): row["mean"] for row in summary["differences"]}
    pairs = [
        (region, arm, value, found[region, arm, "hd95_mm"])
        for (region, arm, name), value in found.items()
        if name == "dice"
    ]
    opposed = [
        f"{region}, against {arm} (Dice {signed(dice)}, HD95 {signed(distance)} mm)"
        for region, arm, dice, distance in pairs
        if dice and distance and dice * distance > 0
    ]
    return f"Dice and HD95 name different arms as the better one: {'; '.join(opposed)}." if opposed else ""


def _pictures(summary: Summary, figures: Iterable[str]) -> str:
    captions = {
        "dice": "Dice along segments of spacings. Blue: trained; pink: beyond; line: where fixed networks trained.",
        "hd95_mm": "95% Hausdorff distance along the same segments.",
        "assd_mm": "Mean distance of surfaces along the same segments.",
        "volume_bias": "Volume bias (predicted over reference, minus one) along the same segments.",
        "cost": "Time and peak memory of a segmentation against spacing, hypernetwork pass included.",
        "learning": "Validation Dice against steps, voxels, seconds and CPU seconds; thin lines are single seeds.",
    }
    pictures = [f"![{captions[name]}]({summary['name']}/{name}.png)\n\n{captions[name]}" for name in figures]
    return "## Figures\n\n" + "\n\n".join(pictures) if pictures else ""


def _verdict(met: bool) -> str:
    return "holds" if met else "**does not hold**"
