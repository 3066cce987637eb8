"""The figures of a comparison, drawn from its summary alone (paper, Fig. 2), as PNG and SVG."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from cycler import cycler
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from unet_factory.domain.spacing import SpacingMm
from unet_factory_research.comparison.config import NATIVE, Comparison, Interval, Segment
from unet_factory_research.comparison.scoring import SPACING_COLUMNS

TRAINED_COLOUR, BEYOND_COLOUR, FIXED_COLOUR = "#dbe9f6", "#fbe3e4", "#7b3fa0"
LABELS = {
    "dice": "Dice",
    "hd95_mm": "95% Hausdorff distance [mm]",
    "assd_mm": "mean surface distance [mm]",
    "volume_bias": "volume bias",
}
_STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "savefig.dpi": 150,
    "axes.prop_cycle": cycler(color=["#0072b2", "#56b4e9", "#d55e00", "#e69f00", "#009e73", "#cc79a7"]),
}


def draw_figures(
    comparison: Comparison, summary: Mapping[str, Any], learning: pd.DataFrame, trained: Interval, folder: Path
) -> list[str]:
    """Write every figure that there is something for; returns their names without suffix."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []

    def save(name: str, draw: Callable[[], Figure]) -> None:
        with rc_context(_STYLE):
            figure = draw()
            figure.savefig(folder / f"{name}.png", bbox_inches="tight")
        drawn.append(name)

    if summary["curves"]:
        for measure in LABELS:
            save(measure, lambda measure=measure: _curves(comparison, summary, trained, measure))  # type: ignore[misc]
    if summary["cost"]:
        save("cost", lambda: _cost(comparison, summary["cost"]))
    if len(learning):
        save("learning", lambda: _learning(comparison, learning))
    return drawn


def _curves(comparison: Comparison, summary: Mapping[str, Any], trained: Interval, measure: str) -> Figure:
    """A panel for each segment: the measure against spacing, with its interval, one line for each arm."""
    count = len(comparison.segments)
    figure = Figure(figsize=(3.4 * count + 0.6, 3.2), layout="constrained")
    panels = figure.subplots(1, count, sharey=True, squeeze=False)[0]
    for panel, segment in zip(panels, comparison.segments, strict=True):
        axis = _moving_axis(segment)
        _shade(panel, segment, axis, trained, comparison.fixed_mm)
        for arm in summary["arms"]:
            rows = [row for row in summary["curves"] if row["segment"] == segment.name and row["arm"] == arm]
            rows.sort(key=lambda row: row["spacing_mm"][axis])
            _line(
                panel,
                [row["spacing_mm"][axis] for row in rows],
                [row[measure] for row in rows],
                arm,
                _number(comparison, arm),
            )
        subjects = max((row["subjects"] for row in summary["curves"] if row["segment"] == segment.name), default=0)
        panel.set(title=f"{segment.name} ({subjects} subjects)", xlabel=_axis_label(segment))
    panels[0].set_ylabel(LABELS[measure])
    panels[0].legend(fontsize=7)
    return figure


def _line(panel: Axes, x: Sequence[float], estimates: Sequence[Sequence[float | None]], arm: str, number: int) -> None:
    mean, low, high = (
        [float("nan") if value is None else value for value in column] for column in zip(*estimates, strict=True)
    )
    style = ("-", "--", "-", ":", "-.", "-")[number % 6]
    panel.plot(x, mean, style, color=f"C{number}", marker="o", markersize=2.5, linewidth=1.3, label=arm)
    panel.fill_between(x, low, high, color=f"C{number}", alpha=0.12, linewidth=0)


def _shade(panel: Axes, segment: Segment, axis: int, trained: Interval, fixed_mm: SpacingMm | None) -> None:
    """Blue where all axes are within the trained range, pink beyond; a line where the fixed networks were trained."""
    start, end = segment.from_mm[axis], segment.to_mm[axis]
    panel.axvspan(min(start, end), max(start, end), color=BEYOND_COLOUR, zorder=0)
    low, high = _trained_part(segment, axis, trained)
    if low < high:
        panel.axvspan(low, high, color=TRAINED_COLOUR, zorder=0.1)
    if fixed_mm is not None:
        panel.axvline(fixed_mm[axis], color=FIXED_COLOUR, linewidth=1)


def _trained_part(segment: Segment, axis: int, trained: Interval) -> tuple[float, float]:
    """Where, along the moving axis, the whole spacing lies within the trained range."""
    first, last = 0.0, 1.0
    for start, end, (low, high) in zip(segment.from_mm, segment.to_mm, trained, strict=True):
        if start == end:
            first, last = (first, last) if low <= start <= high else (1.0, 0.0)
        else:
            enter, leave = sorted(((low - start) / (end - start), (high - start) / (end - start)))
            first, last = max(first, enter), min(last, leave)
    start, end = segment.from_mm[axis], segment.to_mm[axis]
    low, high = start + first * (end - start), start + last * (end - start)
    return (low, high) if start < end else (high, low)


def _cost(comparison: Comparison, cost: Mapping[str, Any]) -> Figure:
    assert comparison.cost is not None
    axis = _moving_axis(comparison.cost.along)
    figure = Figure(figsize=(7.2, 3.0), layout="constrained")
    panels = figure.subplots(1, 2)
    table = pd.DataFrame(cost["rows"]).sort_values(SPACING_COLUMNS[axis])
    table = table[_on_segment(table, comparison.cost.along, axis)]
    for panel, measure, unit, label in zip(
        panels, ("seconds", "peak_bytes"), (1, 2**20), ("time [s]", "peak memory [MiB]"), strict=True
    ):
        for arm, rows in table.groupby("arm", sort=False):
            colour = f"C{_number(comparison, str(arm))}"
            panel.plot(
                rows[SPACING_COLUMNS[axis]], rows[measure] / unit, color=colour, marker="o", markersize=3, label=arm
            )
        if comparison.fixed_mm is not None:
            panel.axvline(comparison.fixed_mm[axis], color=FIXED_COLOUR, linewidth=1)
        panel.set(yscale="log", xlabel=_axis_label(comparison.cost.along), ylabel=label)
    panels[0].legend()
    return figure


def _on_segment(table: pd.DataFrame, segment: Segment, axis: int) -> "pd.Series[bool]":
    """Without the rows that are there only for the ratio."""
    keep = pd.Series(True, index=table.index)
    for other, column in enumerate(SPACING_COLUMNS):
        if other != axis and segment.from_mm[other] == segment.to_mm[other]:
            keep &= table[column] == segment.from_mm[other]
    return keep


_COSTS = {
    "iteration": ("steps", 1.0),
    "voxels": ("million voxels", 1e6),
    "seconds": ("seconds", 1.0),
    "cpu_seconds": ("CPU seconds", 1.0),
}


def _learning(comparison: Comparison, learning: pd.DataFrame) -> Figure:
    """Validation Dice against each cost of training: every seed thin, the mean over seeds thick.

    An arm that sees scans of another range than the reference is validated there, which is another task: of it, only
    the scans' own spacing is shown.
    """
    seed = comparison.seeds[0]
    ranges = {arm: comparison.training_config(arm, seed).acquired_grid for arm in comparison.trained_arms()}
    alike = learning["arm"].map(lambda arm: ranges[arm] == ranges.get(comparison.reference))
    learning = learning[alike | (learning["set"] == NATIVE)]
    sets = list(learning["set"].unique())
    figure = Figure(figsize=(3.0 * len(sets) + 0.6, 2.4 * len(_COSTS) + 0.3), layout="constrained")
    grid = figure.subplots(len(_COSTS), len(sets), sharey=True, squeeze=False)
    for row, (cost, (label, unit)) in zip(grid, _COSTS.items(), strict=True):
        for panel, name in zip(row, sets, strict=True):
            for arm, rows in learning[learning["set"] == name].groupby("arm", sort=False):
                colour = f"C{_number(comparison, str(arm))}"
                for _, run in rows.groupby("seed"):
                    panel.plot(run[cost] / unit, run["dice"], color=colour, linewidth=0.6, alpha=0.5)
                mean = rows.groupby(rows.groupby("seed").cumcount())[[cost, "dice"]].mean()
                panel.plot(mean[cost] / unit, mean["dice"], color=colour, marker="o", markersize=2.5, label=arm)
            panel.set(xlabel=label)
        row[0].set_ylabel("Dice")
    for panel, name in zip(grid[0], sets, strict=True):
        panel.set_title(f"validation, {name}")
    grid[0, 0].legend(fontsize=7)
    return figure


def _number(comparison: Comparison, arm: str) -> int:
    """An arm looks the same in every figure."""
    return list(comparison.arms).index(arm)


def _moving_axis(segment: Segment) -> int:
    """The axis whose spacing changes most, for the abscissa."""
    changes = [abs(end - start) for start, end in zip(segment.from_mm, segment.to_mm, strict=True)]
    return changes.index(max(changes))


def _axis_label(segment: Segment) -> str:
    moving = [name for name, a, b in zip("RAS", segment.from_mm, segment.to_mm, strict=True) if a != b]
    still = [f"{name} {a:g}" for name, a, b in zip("RAS", segment.from_mm, segment.to_mm, strict=True) if a == b]
    label = f"spacing {', '.join(moving)} [mm]"
    return f"{label} ({', '.join(still)} mm)" if still else label
