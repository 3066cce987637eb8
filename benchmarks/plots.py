"""A picture of one area: how far each figure is from its bound, or from what it is measured against."""

from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks.results import Results
from benchmarks.rows import Row

_HELD, _MISSED, _FREE = "#1f77b4", "#d62728", "#8c8c8c"
_LEGEND = "left of the line: within the bound, or better than what it is against"


def draw(results: Results, path: Path) -> None:
    """Bars on a logarithmic axis, as SVG; the same results give the same file."""
    drawn = [(row, part) for row in results.rows if (part := share(row)) is not None]
    figure = Figure(figsize=(9, 0.9 + 0.3 * max(1, len(drawn))), layout="constrained")
    axes = figure.subplots()
    for place, (row, part) in enumerate(drawn):
        color = {True: _HELD, False: _MISSED, None: _FREE}[row.holds]
        axes.barh(place, part - 1, left=1, color=color, hatch="//" if row.holds is False else None, edgecolor="white")
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel(_LEGEND, fontsize="small")
    axes.set_yticks(range(len(drawn)), [_label(row) for row, _ in drawn], fontsize="small")
    axes.invert_yaxis()
    axes.set_title(results.title, loc="left")
    with mpl.rc_context({"svg.hashsalt": results.area, "svg.fonttype": "none"}):
        figure.savefig(path, format="svg", metadata={"Date": None})


def share(row: Row) -> float | None:
    """Of the bound that is used up, or the ratio where there is no bound; None if it can be neither.

    Below 1 is better: a bound from below is turned over.
    """
    figure = row.value if row.ratio is None else row.ratio
    if figure is None or figure <= 0:
        return None
    if row.must is None:
        return row.ratio
    return figure / row.must.bound if row.must.at == "most" else row.must.bound / figure


def _label(row: Row) -> str:
    return f"{row.name} ({row.must or row.against})"
