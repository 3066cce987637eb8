"""What a benchmark says: one row for each figure, and what the figure must be."""

from collections.abc import Callable, Iterator
from typing import Literal

from pydantic import ConfigDict, computed_field

from unet_factory.domain.frozen import Frozen


class Must(Frozen):
    """A bound on a row's ratio where it has one, else on its value."""

    at: Literal["most", "least"]
    bound: float

    def holds(self, figure: float) -> bool:
        return figure <= self.bound if self.at == "most" else figure >= self.bound

    def __str__(self) -> str:
        return f"{'≤' if self.at == 'most' else '≥'} {self.bound:g}"


def at_most(bound: float) -> Must:
    return Must(at="most", bound=bound)


def at_least(bound: float) -> Must:
    return Must(at="least", bound=bound)


class Row(Frozen):
    """One figure.

    ``value`` is a median, ``spread`` its quartiles, both in ``unit``. ``ratio`` divides it by the same figure of
    ``against``, round by round of one interleaved run, so it stays what it is on a busy machine; quote the value only
    beside the machine. ``before`` is what it was before it was worked on, and ``note`` says why a bound is missed.
    """

    model_config = ConfigDict(extra="ignore")  # what is computed is written too

    name: str
    value: float | None
    unit: str
    spread: tuple[float, float] | None = None
    against: str = ""
    ratio: float | None = None
    must: Must | None = None
    before: str = ""
    note: str = ""

    @computed_field  # type: ignore[prop-decorator]
    @property
    def holds(self) -> bool | None:
        """None where nothing is demanded, or nothing could be measured."""
        figure = self.value if self.ratio is None else self.ratio
        return None if self.must is None or figure is None else self.must.holds(figure)


Benchmark = Callable[[], Iterator[Row]]


class Area(Frozen):
    """Benchmarks that are run together, by the name that ``--only`` takes; with ``on_demand`` only by that."""

    name: str
    title: str
    run: Benchmark
    on_demand: bool = False


AREAS: dict[str, Area] = {}


def area(name: str, title: str, *, on_demand: bool = False) -> Callable[[Benchmark], Benchmark]:
    """Register a function that yields rows; its module must be named in ``benchmarks.__main__``."""

    def register(run: Benchmark) -> Benchmark:
        AREAS[name] = Area(name=name, title=title, run=run, on_demand=on_demand)
        return run

    return register
