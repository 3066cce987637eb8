"""What a benchmark says: one row for each figure, what is demanded of it, and what it is held to."""

from collections.abc import Callable, Iterator
from typing import Any, Literal, Self

from pydantic import ConfigDict, computed_field, model_validator

from unet_factory.domain.frozen import Frozen


class Bound(Frozen):
    """A bound on a row's ratio where it has one, else on its value."""

    at: Literal["most", "least"]
    bound: float

    def holds(self, figure: float) -> bool:
        return figure <= self.bound if self.at == "most" else figure >= self.bound

    def is_looser_than(self, other: "Bound") -> bool:
        return self.at == other.at and self != other and self.holds(other.bound)

    def __str__(self) -> str:
        return f"{'≤' if self.at == 'most' else '≥'} {self.bound:g}"


def at_most(bound: float) -> Bound:
    return Bound(at="most", bound=bound)


def at_least(bound: float) -> Bound:
    return Bound(at="least", bound=bound)


class Row(Frozen):
    """One figure.

    ``value`` is a median, ``spread`` its quartiles, both in ``unit``. ``ratio`` divides it by the same figure of
    ``against``, round by round of one interleaved run, so it stays what it is on a busy machine; quote the value only
    beside the machine. ``before`` is what it was before it was worked on.

    ``aim`` is what is demanded, and ``must`` what ``--check`` fails without: the aim itself, unless ``reason`` names
    the one of :mod:`benchmarks.shortfalls` that says why the aim is not reached.
    """

    model_config = ConfigDict(extra="ignore")  # what is computed is written too

    name: str
    value: float | None
    unit: str
    spread: tuple[float, float] | None = None
    against: str = ""
    ratio: float | None = None
    aim: Bound | None = None
    must: Bound | None = None
    reason: str = ""
    before: str = ""
    note: str = ""

    @model_validator(mode="before")
    @classmethod
    def _hold_to_the_aim(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Where nothing else is said. A row written when there was only ``must`` was held to what was demanded."""
        aim = given.get("aim", given.get("must"))
        return {**given, "aim": aim, "must": given.get("must") or aim}

    @model_validator(mode="after")
    def _loosen_only_with_a_reason(self) -> Self:
        looser = self.aim is not None and self.must is not None and self.must.is_looser_than(self.aim)
        if looser and not self.reason:
            raise ValueError(f"{self.name}: held to {self.must}, looser than its aim {self.aim}, without a reason")
        if not looser and (self.reason or self.must != self.aim):
            raise ValueError(f"{self.name}: held to {self.must}, which must be looser than its aim {self.aim}")
        return self

    @property
    def figure(self) -> float | None:
        """What is bounded."""
        return self.value if self.ratio is None else self.ratio

    @computed_field  # type: ignore[prop-decorator]
    @property
    def reached(self) -> bool | None:
        """Whether the aim is; None where nothing is demanded, or nothing could be measured."""
        return None if self.aim is None or self.figure is None else self.aim.holds(self.figure)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def holds(self) -> bool | None:
        """Whether ``--check`` passes it; None as for :attr:`reached`."""
        return None if self.must is None or self.figure is None else self.must.holds(self.figure)


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
