"""A comparison as a page of Markdown, and the index of all pages, written from summaries alone."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from unet_factory_research.comparison.config import Comparison
from unet_factory_research.comparison.figures import LABELS
from unet_factory_research.comparison.statistics import CONFIDENCE, RESAMPLES

Summary = Mapping[str, Any]

_HOW = f"""## How this is measured

- Every scan and its label map are resampled to a spacing, which stands for a scan acquired so; the arm segments the
  scan, and its label map is scored there, at the working resolution. Arms that work at another spacing resample the
  image, and the logits back.
- Each scan has random spacings of its own from every interval; all arms see the same ones.
- The score of a scan is the mean over the labels that its reference has. Frames of one patient are one subject.
- mean [interval]: over subjects, {CONFIDENCE:.0%} by bootstrap (BCa, {RESAMPLES} resamples); std: over scans, spacings
  and seeds.
- HD95: the larger of the two directed 95th percentiles of distances between surfaces. ASSD: the mean of all those
  distances. Both in mm. A label that was missed altogether counts with the scan's diagonal, Dice 0 and volume bias -1.
- p: Wilcoxon's signed-rank test, two-sided, over subjects; corrected by Holm for all tests of the same measure on this
  page.
"""


def page_of(comparison: Comparison, summary: Summary, command: str, figures: Sequence[str]) -> str:
    """The page; its figures lie in the folder ``NAME/`` beside it."""
    sections = [
        f"# {summary['title']}",
        f"Written by\n\n```\n{command}\n```\n\n"
        f"on {summary['scans']} scans of {summary['subjects']} subjects of the {comparison.split} split, "
        f"{len(comparison.seeds)} training{'s' if len(comparison.seeds) > 1 else ''} of each arm.",
        _arms(comparison),
        _expectations(summary),
        _regions(summary),
        _differences(summary),
        _pictures(summary, figures),
        _cost(summary),
        _HOW,
    ]
    return "\n\n".join(section.strip() for section in sections if section) + "\n"


def index_of(summaries: Mapping[str, Summary], commands: Mapping[str, str], folder: str) -> str:
    """The page of all comparisons: what was expected of each, and what came out; pages lie in ``folder``."""
    parts = ["# Results", "Every figure here is written by the command beside it."]
    for name, summary in summaries.items():
        parts += [
            f"## [{summary['title']}]({folder}/{name}.md)",
            f"```\n{commands[name]}\n```",
            _regions(summary, heading=False),
            _expectations(summary, heading=False),
        ]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def _arms(comparison: Comparison) -> str:
    rows = []
    for name, arm in comparison.arms.items():
        changes = "; ".join(f"`{key}: {value}`" for key, value in arm.overrides.items())
        network = f"that of {arm.source}" if arm.source else "its own"
        rows.append([name, network, changes, str(arm.outside)])
    shared = "; ".join(f"`{key}: {value}`" for key, value in comparison.overrides.items())
    base = f"All arms share `configs/{comparison.base.name}`" + (f" with {shared}." if shared else ".")
    return "## Arms\n\n" + base + "\n\n" + _table(["arm", "network", "changes", "outside the trained range"], rows)


def _expectations(summary: Summary, heading: bool = True) -> str:
    rows = [
        [
            f"Dice {row['region']}: {summary['reference']} - {row['against']}",
            f"at least {row['at_least']:+.3f}",
            f"{row['mean']:+.4f} [{_signed(row['low'])}, {_signed(row['high'])}]",
            _verdict(row["met"]),
        ]
        for row in summary["expectations"]
    ]
    if cost := summary["cost"]:
        what = f"{summary['reference']} at {_mm(cost['at_mm'])} against {cost['against']} at {_mm(cost['against_mm'])}"
        for measure, label in (("seconds", "time"), ("peak_bytes", "peak memory")):
            times = cost["times"][measure]
            met = times >= cost["expected_times"]
            rows.append([f"{label}: {what}", f"{cost['expected_times']:g} times less", f"{times:.1f}", _verdict(met)])
    if not rows:
        return ""
    title = "## Expected and found\n\n" if heading else ""
    return title + _table(["what", "expected", "found", ""], rows)


def _regions(summary: Summary, heading: bool = True) -> str:
    arms = summary["arms"]
    found = {(row["region"], row["arm"]): row for row in summary["regions"]}
    regions = list(dict.fromkeys(row["region"] for row in summary["regions"]))
    dice = [[region, *(_mean_std(found[region, arm]["dice"]) for arm in arms)] for region in regions]
    table = _table(["mean Dice (std)", *arms], dice)
    if not heading:
        return table
    parts = ["## Scores over intervals of spacings", table]
    for measure in ("dice", "hd95_mm", "assd_mm", "volume_bias"):
        rows = [[region, *(_interval(found[region, arm][measure]) for arm in arms)] for region in regions]
        parts.append(_table([f"{LABELS[measure]}, mean [interval]", *arms], rows))
    missed = [[region, *(str(found[region, arm]["missed"]) for arm in arms)] for region in regions]
    parts.append(_table(["labels missed altogether", *arms], missed))
    return "\n\n".join(parts)


def _differences(summary: Summary) -> str:
    rows = [
        [
            row["region"],
            row["against"],
            LABELS[row["measure"]],
            f"{_signed(row['mean'])} [{_signed(row['low'])}, {_signed(row['high'])}]",
            str(row["subjects"]),
            "" if row["p_holm"] is None else f"{row['p_holm']:.2g}",
        ]
        for row in summary["differences"]
    ]
    if not rows:
        return ""
    head = ["spacings", "against", "measure", "difference [interval]", "subjects", "p (Holm)"]
    return f"## {summary['reference']} minus the others, subject by subject\n\n" + _table(head, rows)


def _pictures(summary: Summary, figures: Iterable[str]) -> str:
    captions = {
        "dice": "Dice along segments of spacings. Blue: trained; pink: beyond; line: where fixed networks trained.",
        "hd95_mm": "95% Hausdorff distance along the same segments.",
        "assd_mm": "Mean distance of surfaces along the same segments.",
        "volume_bias": "Volume bias (predicted over reference, minus one) along the same segments.",
        "cost": "Time and peak memory of a segmentation against spacing, hypernetwork pass included.",
        "learning": "Validation Dice while training; thin lines are single seeds.",
    }
    pictures = [f"![{captions[name]}]({summary['name']}/{name}.png)\n\n{captions[name]}" for name in figures]
    return "## Figures\n\n" + "\n\n".join(pictures) if pictures else ""


def _cost(summary: Summary) -> str:
    cost = summary["cost"]
    if not cost:
        return ""
    rows = [
        [
            row["arm"],
            _mm([row["spacing_r_mm"], row["spacing_a_mm"], row["spacing_s_mm"]]),
            f"{row['voxels']}",
            f"{row['seconds']:.3f}",
            f"{row['cpu_seconds']:.3f}",
            f"{row['peak_bytes'] / 2**20:.1f}",
        ]
        for row in cost["rows"]
    ]
    first = cost["rows"][0]
    sizes = ", ".join(
        f"{arm} {size / 2**20:.1f} MiB"
        for arm, size in {row["arm"]: row["checkpoint_bytes"] for row in cost["rows"]}.items()
    )
    intro = (
        f"A scan of {_mm(cost['extent_mm'])}, device {first['device']}, {first['threads']} CPU thread(s), medians of "
        f"{first['repeats']} interleaved repeats. Peak memory is what the segmentation adds to a fresh process that "
        f"has loaded the checkpoint ({sizes}). On a CPU that others use too, CPU time is the steadier measure."
    )
    head = ["arm", "spacing (R,A,S)", "voxels", "time [s]", "CPU time [s]", "peak memory [MiB]"]
    return "## Time and memory\n\n" + intro + "\n\n" + _table(head, rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _mean_std(estimate: Mapping[str, float | None]) -> str:
    return f"{_plain(estimate['mean'])} ({_plain(estimate['std'])})"


def _interval(estimate: Mapping[str, float | None]) -> str:
    return f"{_plain(estimate['mean'])} [{_plain(estimate['low'])}, {_plain(estimate['high'])}]"


def _plain(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.4f}"


def _mm(values: Sequence[float]) -> str:
    return "x".join(f"{value:g}" for value in values) + " mm"


def _verdict(met: bool) -> str:
    return "holds" if met else "**does not hold**"
