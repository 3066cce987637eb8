"""Documents: short lines, links that lead somewhere, and the same checks before a commit as in `make check`."""

import re
from pathlib import Path

import pytest
import yaml

from tests.fixtures.project import PROJECT

WRITTEN = [
    *PROJECT.glob("*.md"),
    *(PROJECT / "docs" / name for name in ("method.md", "concepts.md", "walks.md")),
    *(PROJECT / "docs" / "decisions").glob("*.md"),
    *(PROJECT / "docs" / "guide").glob("*.md"),
    *(PROJECT / "docs" / "start").glob("*.md"),
    *(PROJECT / "docs" / "reference").glob("*.md"),
]
LINKING = [*WRITTEN, *(PROJECT / "docs").rglob("*.md")]
MAX_LENGTH = 120


def name(path: Path) -> str:
    return str(path.relative_to(PROJECT))


@pytest.mark.parametrize("document", WRITTEN, ids=name)
def test_lines_are_short_except_for_rows_of_tables(document: Path) -> None:
    lines = document.read_text().splitlines()
    long = [n for n, line in enumerate(lines, 1) if len(line) > MAX_LENGTH and not line.lstrip().startswith("|")]
    assert long == []


@pytest.mark.parametrize("document", LINKING, ids=name)
def test_links_within_the_project_lead_somewhere(document: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[\w-]+)?\)", document.read_text())
    missing = [target for target in targets if "://" not in target and not (document.parent / target).exists()]
    assert missing == []


def test_the_readme_names_every_folder() -> None:
    named = set(re.findall(r"^\| `(\w+)/`", (PROJECT / "README.md").read_text(), re.MULTILINE))
    tracked = {path.name for path in PROJECT.iterdir() if path.is_dir() and path.name[0] not in "._"}
    ignored = {line.strip("/") for line in (PROJECT / ".gitignore").read_text().splitlines()}
    assert named == tracked - ignored - {"shared"}


def test_what_runs_before_a_commit_is_what_make_check_runs() -> None:
    hooks = yaml.safe_load((PROJECT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    recipe = re.search(r"^check: setup\n((?:\t.*\n)+)", (PROJECT / "Makefile").read_text(), re.MULTILINE)
    assert recipe
    checks = [line.strip().replace("$(BIN)", ".venv/bin") for line in recipe[1].splitlines()]
    assert [hook["entry"] for hook in hooks] == checks
