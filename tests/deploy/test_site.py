"""The documentation as a site: it builds without a warning, every link leads somewhere, and nothing is loaded from
elsewhere.
"""

import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.fixtures.project import PROJECT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not find_spec("sphinx"), reason="needs what `make docs` installs"),
]

SITE = PROJECT / "build" / "site"
MADE_BY_SCRIPTS = re.compile(r"#tag/")  # Redoc's places in api.html


class Page(HTMLParser):
    """What a page links to, what it loads, and the places in it that can be linked to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links, self.loaded, self.places = set[str](), set[str](), {""}
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value for name, value in attrs if value is not None}
        self.places |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.add(values["href"])
        elif tag == "link" and values.get("rel") in ("stylesheet", "icon", "preload"):
            self.loaded.add(values["href"])
        elif "src" in values:
            self.loaded.add(values["src"])


@pytest.fixture(scope="module")
def pages() -> dict[Path, Page]:
    """By their files, after a build as `make docs` does it; quick where `make docs` has run."""
    recipe = re.search(r"^\t\$\(BIN\)/(sphinx-build .*)$", (PROJECT / "Makefile").read_text(), re.MULTILINE)
    assert recipe
    command = [str(Path(sys.executable).with_name("sphinx-build")), *recipe[1].split()[1:]]
    subprocess.run(command, cwd=PROJECT, check=True)
    return {path: Page(path) for path in SITE.rglob("*.html") if "_downloads" not in path.parts}


def test_every_link_within_the_site_leads_to_a_place(pages: dict[Path, Page]) -> None:
    assert len(pages) > 40
    broken = [
        f"{path.relative_to(SITE)}: {link}"
        for path, page in pages.items()
        for link in page.links | page.loaded
        if not leads_somewhere(path, link, pages)
    ]
    assert broken == []


def test_nothing_is_loaded_from_elsewhere(pages: dict[Path, Page]) -> None:
    assert [link for page in pages.values() for link in page.loaded if urlsplit(link).netloc] == []
    styles = "\n".join(path.read_text() for path in SITE.glob("_static/**/*.css"))
    assert re.findall(r"""(?:url\(|@import\s+)["']?(?:https?:)?//""", styles) == []


def test_every_call_has_its_place_in_the_reference(pages: dict[Path, Page]) -> None:
    linked = {link for link in pages[SITE / "docs" / "reference" / "http.html"].links if "/operation/" in link}
    api = (SITE / "_static" / "openapi.js").read_text()
    assert len(linked) == len(re.findall(r'"operationId": ', api)) > 30


def leads_somewhere(page: Path, link: str, pages: dict[Path, Page]) -> bool:
    parts = urlsplit(link)
    if parts.scheme or parts.netloc or MADE_BY_SCRIPTS.search(link):
        return True
    target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
    if target not in pages:
        return target.is_file()
    return unquote(parts.fragment) in pages[target].places


def test_every_chapter_is_reached_from_the_navigation(pages: dict[Path, Page]) -> None:
    home = SITE / "docs" / "index.html"
    reached = {(home.parent / unquote(urlsplit(link).path)).resolve() for link in pages[home].links}
    chapters = [page for page in (PROJECT / "docs").rglob("*.md") if page.stem != "index"]
    assert len(chapters) > 30
    assert [page for page in chapters if SITE / page.relative_to(PROJECT).with_suffix(".html") not in reached] == []
