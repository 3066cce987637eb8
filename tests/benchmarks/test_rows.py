"""What a benchmark's rows claim, how they are written, and that a missed bound is an error."""

import math
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError
from typer import Typer
from typer.testing import CliRunner, Result

from benchmarks import __main__ as program
from benchmarks import plots, shortfalls
from benchmarks.results import read_all
from benchmarks.rows import AREAS, Area, Bound, Row, at_least, at_most
from benchmarks.shortfalls import Nearest, Shortfall
from benchmarks.timing import interleaved, ratio_of, timed_row
from tests.fixtures.project import PROJECT


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
    assert _row(9, aim=at_most(10)).reached is True
    assert _row(9, aim=at_least(10)).reached is False
    assert _row(9, ratio=11, aim=at_most(10)).reached is False
    assert _row(9).reached is None
    assert Row(name="on a GPU", value=None, unit="ms", aim=at_most(1)).reached is None


def test_a_row_is_held_to_its_aim_unless_it_names_the_reason_why_not() -> None:
    assert _row(9, aim=at_most(8)).holds is False
    short = _row(9, aim=at_most(8), must=at_most(10), reason="the disk")
    assert (short.reached, short.holds) == (False, True)
    with pytest.raises(ValidationError, match="without a reason"):
        _row(9, aim=at_most(8), must=at_most(10))


@pytest.mark.parametrize(
    "given",
    [
        {"aim": at_most(8), "must": at_most(7)},
        {"aim": at_least(8), "must": at_least(9)},
        {"aim": at_most(8), "must": at_least(1)},
        {"aim": at_most(8)},
        {},
    ],
)
def test_a_reason_loosens_what_a_row_is_held_to(given: dict[str, Bound]) -> None:
    with pytest.raises(ValidationError, match="must be looser than its aim"):
        _row(9, reason="the disk", **given)


def test_rows_written_when_there_was_one_bound_were_held_to_their_aim() -> None:
    old = Row.model_validate_json('{"name": "x", "value": 3, "unit": "s", "must": {"at": "most", "bound": 2}}')
    assert old.aim == old.must == at_most(2)
    assert Row.model_validate_json(old.model_dump_json()) == old


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
def test_check_fails_only_when_an_aim_is_missed(run: Run, value: float, status: int) -> None:
    rows = [_row(1), _row(value, aim=at_most(2))]
    assert run("--check", part=rows).exit_code == status
    assert run(part=rows).exit_code == 0


def test_ratios_can_be_checked_alone(run: Run) -> None:
    slow, unequal = _row(3.0, aim=at_most(2)), _row(1.0, ratio=3.0, aim=at_most(2))
    assert run("--check", "--ratios", part=[slow]).exit_code == 0
    assert run("--check", "--ratios", part=[slow, unequal]).exit_code == 1


def test_an_unknown_area_is_refused_with_the_names_of_those_that_are(run: Run) -> None:
    result = run("--only", "speed", weights=[_row(1)])
    assert result.exit_code == 2
    assert "weights" in result.output


def test_publishing_one_area_keeps_the_others_on_the_page(run: Run, tmp_path: Path) -> None:
    run("--publish", first=[_row(1, aim=at_most(2))], second=[_row(5, note="it is slow", aim=at_most(2))])
    run("--publish", "--only", "first", first=[_row(math.pi)])
    text = (tmp_path / "speed.md").read_text()
    assert "3.14 ms" in text
    assert "**1 of 1 aims are not reached**" in text
    assert "it is slow" in text
    assert text.index("## First") < text.index("## Second")
    for area in ("first", "second"):
        assert f"](speed/{area}.svg)" in text
    assert "a thing (≤ 2)" in (tmp_path / "speed/second.svg").read_text()


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> Shortfall:
    """That ``a thing`` of the area ``part`` falls short."""
    nearest = (Nearest("part", "a thing", at_most(4), "MONAI"),)
    shortfall = Shortfall(title="a slow thing", why="the disk is slow.", nearest=nearest)
    monkeypatch.setattr(shortfalls, "SHORTFALLS", (shortfall,))
    return shortfall


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize(("value", "status"), [(1.0, 0), (3.0, 0), (5.0, 1)])
def test_check_holds_a_known_shortfall_to_the_nearest_that_was_reached(run: Run, value: float, status: int) -> None:
    rows = [_row(value, against="MONAI, 7 ms", aim=at_most(2)), _row(1, against="nnU-Net", aim=at_most(2))]
    assert run("--check", part=rows).exit_code == status
    assert run("--check", other=[_row(3, against="MONAI", aim=at_most(2))]).exit_code == 1


def test_a_known_shortfall_is_shown_first_with_its_aim_and_its_reason(
    run: Run, tmp_path: Path, known: Shortfall
) -> None:
    rows = [_row(1, aim=at_most(2)), _row(3, against="MONAI, 7 ms", aim=at_most(2))]
    assert f"≤ 2 does not reach its aim; see *{known.title}*" in run("--publish", part=rows).output
    text = (tmp_path / "speed.md").read_text()
    first = text[: text.index("## Part")]
    assert "**1 of 2 aims are not reached**" in first
    assert "| Part | a thing | MONAI, 7 ms | 3 ms |  | ≤ 2 | ≤ 4 | a slow thing |" in first
    assert known.why in first
    assert "| ≤ 2 | **no** | ≤ 4 |" in text


def test_another_hosts_figures_stand_beside_those_of_the_same_rows(run: Run, tmp_path: Path) -> None:
    """Also where rows have one name, and what they are against tells what it took."""
    aim = at_most(2)
    run("--publish", "--faster", part=[_row(1, against="MONAI, 7 ms", aim=aim), _row(4, against="nnU-Net", aim=aim)])
    run("--publish", part=[_row(3, against="MONAI, 9 ms", aim=aim), _row(5, against="nnU-Net", aim=aim)])
    text = (tmp_path / "speed.md").read_text()
    assert "**2 of 2 aims are not reached** on the host below; a faster one reaches 1 of them" in text
    assert "| MONAI, 9 ms | 3 ms | 1 ms | ≤ 2 |" in text
    assert "| nnU-Net |  | 4 ms | ≤ 2 | **no** |" in text


def test_a_page_without_measuring_has_what_is_known_now(
    run: Run, tmp_path: Path, known: Shortfall, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("--publish", part=[_row(3, against="MONAI", aim=at_most(2))])
    monkeypatch.setattr(shortfalls, "SHORTFALLS", ())
    run("--page")
    text = (tmp_path / "speed.md").read_text()
    assert "| ≤ 2 | its aim |" in text
    assert known.why not in text


def test_all_that_fell_short_when_it_was_published_has_a_known_reason_and_nothing_else_has() -> None:
    """An entry goes when its aim is reached, when its row has another name, and when its area goes."""
    folder = PROJECT / "docs" / "results" / "speed"
    published = read_all(folder, sorted(path.stem for path in folder.glob("*.json")))
    rows = [(each.area, row) for each in published for row in each.rows]
    for area, row in rows:
        assert bool(row.reason) == (row.reached is False), f"{area}: {row.name}, against {row.against}"
    for shortfall in shortfalls.SHORTFALLS:
        for nearest in shortfall.nearest:
            alone = shortfall.model_copy(update={"nearest": (nearest,)})
            assert any(alone.bound_of(area, row) for area, row in rows), nearest


@pytest.mark.parametrize(
    ("row", "share"),
    [
        (_row(4, aim=at_most(2)), 2),
        (_row(4, aim=at_least(2)), 0.5),
        (_row(9, ratio=1, aim=at_most(4)), 0.25),
        (_row(9, ratio=3), 3),
        (_row(9), None),
        (_row(0, aim=at_least(1)), None),
    ],
)
def test_a_picture_shows_how_much_of_a_bound_is_used_up(row: Row, share: float | None) -> None:
    assert plots.share(row) == share
