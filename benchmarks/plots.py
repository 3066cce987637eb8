"""A picture of one area: how far each figure is from its aim, or from what it is measured against."""

from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks.results import Results
from benchmarks.rows import Bound, Row

_REACHED, _MISSED, _FREE = "#1f77b4", "#d62728", "#8c8c8c"
_LEGEND = "left of the line: the aim is reached, or better than what it is against"


def draw(results: Results, path: Path) -> None:
    """Bars on a logarithmic axis, as SVG; the same results give the same file."""
    drawn = [(row, part) for row in results.rows if (part := share(row)) is not None]
    figure = Figure(figsize=(9, 0.9 + 0.3 * max(1, len(drawn))), layout="constrained")
    axes = figure.subplots()
    for place, (row, part) in enumerate(drawn):
        color = {True: _REACHED, False: _MISSED, None: _FREE}[row.reached]
        axes.barh(place, part - 1, left=1, color=color, hatch="//" if row.reached is False else None, edgecolor="white")
        if row.aim and row.must and row.must != row.aim:
            axes.vlines(_used_up(row.aim, row.must.bound), place - 0.4, place + 0.4, color="black", linewidth=2)
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
    """Of the aim that is used up, or the ratio where there is no aim; None if it can be neither."""
    if row.figure is None or row.figure <= 0:
        return None
    return row.ratio if row.aim is None else _used_up(row.aim, row.figure)


def _used_up(aim: Bound, figure: float) -> float:
    """Below 1 is better: a bound from below is turned over."""
    return figure / aim.bound if aim.at == "most" else aim.bound / figure


def _label(row: Row) -> str:
    return f"{row.name} ({row.aim or row.against})"
