"""What a benchmark's rows claim, how they are written, and that a missed bound is an error."""

import math
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer import Typer
from typer.testing import CliRunner, Result

from benchmarks import __main__ as program
from benchmarks import plots
from benchmarks.rows import AREAS, Area, Row, at_least, at_most
from benchmarks.timing import interleaved, ratio_of, timed_row


def _row(value: float, **more: object) -> Row:
    return Row.model_validate({"name": "a thing", "value": value, "unit": "ms", **more})


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator["Run"]:
    monkeypatch.setattr(program, "PAGE", tmp_path / "speed.md")
    monkeypatch.setattr(program, "_MODULES", ())
    monkeypatch.setattr("logging.disable", lambda level: None)
    known = dict(AREAS)
    AREAS.clear()
    yield Run()
    AREAS.clear()
    AREAS.update(known)


class Run:
    """The program with areas that yield these rows."""

    def __call__(self, *arguments: str, **areas: list[Row]) -> Result:
        for name, rows in areas.items():
            AREAS[name] = Area(name=name, title=name.title(), run=lambda rows=rows: iter(rows))
        app = Typer()
        app.command()(program.main)
        return CliRunner().invoke(app, list(arguments))


def test_a_bound_is_on_the_ratio_where_there_is_one_else_on_the_value() -> None:
    assert _row(9, must=at_most(10)).holds is True
    assert _row(9, must=at_least(10)).holds is False
    assert _row(9, ratio=11, must=at_most(10)).holds is False
    assert _row(9).holds is None
    assert Row(name="on a GPU", value=None, unit="ms", must=at_most(1)).holds is None


def test_contestants_take_turns_and_the_first_round_does_not_count() -> None:
    turns: list[str] = []
    samples = interleaved({"a": lambda: turns.append("a"), "b": lambda: turns.append("b")}, rounds=3)
    assert turns == ["a", "b"] * 4
    assert len(samples["a"].wall_s) == len(samples["b"].cpu_s) == 3


def test_a_ratio_is_taken_round_by_round() -> None:
    """A burst of other work in one round slows both down, and changes nothing."""
    assert ratio_of((2.0, 200.0, 2.0), (1.0, 100.0, 1.0)) == 2


def test_cpu_time_is_not_spent_by_sleeping() -> None:
    samples = interleaved({"sleep": lambda: time.sleep(0.05)}, rounds=1)
    asleep, busy = timed_row("x", samples, "sleep").value, timed_row("x", samples, "sleep", cpu=True).value
    assert asleep is not None
    assert busy is not None
    assert busy < 50 <= asleep


@pytest.mark.parametrize(("value", "status"), [(1.0, 0), (3.0, 1)])
def test_check_fails_only_when_a_bound_is_missed(run: Run, value: float, status: int) -> None:
    rows = [_row(1), _row(value, must=at_most(2))]
    assert run("--check", part=rows).exit_code == status
    assert run(part=rows).exit_code == 0


def test_ratios_can_be_checked_alone(run: Run) -> None:
    slow, unequal = _row(3.0, must=at_most(2)), _row(1.0, ratio=3.0, must=at_most(2))
    assert run("--check", "--ratios", part=[slow]).exit_code == 0
    assert run("--check", "--ratios", part=[slow, unequal]).exit_code == 1


def test_an_unknown_area_is_refused_with_the_names_of_those_that_are(run: Run) -> None:
    result = run("--only", "speed", weights=[_row(1)])
    assert result.exit_code == 2
    assert "weights" in result.output


def test_publishing_one_area_keeps_the_others_on_the_page(run: Run, tmp_path: Path) -> None:
    run("--publish", first=[_row(1, must=at_most(2))], second=[_row(5, note="it is slow", must=at_most(2))])
    run("--publish", "--only", "first", first=[_row(math.pi)])
    text = (tmp_path / "speed.md").read_text()
    assert "3.14 ms" in text
    assert "**no**" in text
    assert "it is slow" in text
    assert text.index("## First") < text.index("## Second")
    for area in ("first", "second"):
        assert f"](speed/{area}.svg)" in text
    assert "a thing (≤ 2)" in (tmp_path / "speed/second.svg").read_text()


@pytest.mark.parametrize(
    ("row", "share"),
    [
        (_row(4, must=at_most(2)), 2),
        (_row(4, must=at_least(2)), 0.5),
        (_row(9, ratio=1, must=at_most(4)), 0.25),
        (_row(9, ratio=3), 3),
        (_row(9), None),
        (_row(0, must=at_least(1)), None),
    ],
)
def test_a_picture_shows_how_much_of_a_bound_is_used_up(row: Row, share: float | None) -> None:
    assert plots.share(row) == share
