"""``make screenshots``: the README's picture of the page."""

import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page

from tests.fixtures.browser import chromium
from tests.fixtures.project import HIPPOCAMPUS, MODELS, PROJECT
from tests.system.processes import until
from tests.system.serve_process import ServeProcess

EXAMPLE = HIPPOCAMPUS / "images" / "hippocampus_004.nii.gz"
PICTURE = PROJECT / "docs" / "page.png"
MAX_BYTES = 400_000
WITHIN_MS = 120_000
PRICED_WITHIN_S = 240.0
COARSER = 5  # steps of the slider


def main() -> None:
    with tempfile.TemporaryDirectory() as name, chromium() as browser:
        folder = Path(name)
        serve = ServeProcess(folder, MODELS)
        try:
            _await_prices(serve)
            page = browser.new_page(viewport={"width": 1360, "height": 900}, color_scheme="light")
            page.set_default_timeout(WITHIN_MS)
            page.goto(serve.url)
            _show(page, EXAMPLE)
            _segment_twice(page)
            page.screenshot(path=folder / "page.png")
            _write_small(folder / "page.png")
        finally:
            serve.stop()


def _await_prices(serve: ServeProcess) -> None:
    """A worker measures what jobs cost while it has none."""
    with serve.client as client:
        until(lambda: client.quote((36, 52, 38), (1, 1, 1)).options[0].seconds is not None, PRICED_WITHIN_S)


def _show(page: Page, scan: Path) -> None:
    page.locator("#model option").first.wait_for(state="attached")
    page.locator("#files").set_input_files(scan)
    page.locator("figcaption", has_text=scan.name).wait_for()


def _segment_twice(page: Page) -> None:
    page.get_by_role("button", name="Segment", exact=True).click()
    page.locator("#result").wait_for()
    for _ in range(COARSER):
        page.locator("#spacing").press("ArrowRight")
    page.get_by_role("button", name="side by side").click()
    page.locator("figcaption").nth(1).filter(has_text="mm").wait_for()
    page.locator("#progress").wait_for(state="hidden")


def _write_small(shot: Path) -> None:
    Image.open(shot).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(PICTURE, optimize=True)
    size = PICTURE.stat().st_size
    if size > MAX_BYTES:
        raise SystemExit(f"{PICTURE.name} has {size} bytes, at most {MAX_BYTES} are allowed")


if __name__ == "__main__":
    main()
