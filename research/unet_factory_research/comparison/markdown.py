"""Numbers and tables as Markdown."""

from collections.abc import Iterable, Mapping, Sequence

Estimate = Mapping[str, float | None]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def mean_std(estimate: Estimate) -> str:
    return f"{plain(estimate['mean'])} ({plain(estimate['std'])})"


def interval(estimate: Estimate) -> str:
    return f"{plain(estimate['mean'])} [{plain(estimate['low'])}, {plain(estimate['high'])}]"


def plain(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.4f}"


def millimetres(values: Sequence[float]) -> str:
    return "x".join(f"{value:g}" for value in values) + " mm"
