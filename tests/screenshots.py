"""``make screenshots``: the README's picture of the page, and how long a large scan takes to appear."""

import sys
import tempfile
from pathlib import Path

import nibabel
import numpy as np
from PIL import Image
from playwright.sync_api import Page

from tests.fixtures.browser import chromium
from tests.fixtures.project import HIPPOCAMPUS, MODELS, PROJECT
from tests.system.processes import until
from tests.system.serve_process import ServeProcess

EXAMPLE = HIPPOCAMPUS / "images" / "hippocampus_004.nii.gz"
PICTURE = PROJECT / "docs" / "page.png"
MAX_BYTES = 400_000
LARGE = (256, 256, 180)
WITHIN_MS = 120_000
PRICED_WITHIN_S = 240.0
COARSER = 5  # steps of the slider


def main() -> None:
    """Writes the picture, and the seconds to standard output."""
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
            _show(page, _large_scan(folder))
            sys.stdout.write(f"{_last_ms(page):.0f} ms from the drop of {LARGE} voxels to its picture\n")
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


def _large_scan(folder: Path) -> Path:
    """A ball that fades outwards, with some noise."""
    radii = np.sqrt(sum(axis**2 for axis in np.meshgrid(*(np.linspace(-1, 1, n) for n in LARGE), indexing="ij")))
    noise = np.random.default_rng(0).normal(0, 20, LARGE)
    voxels = np.where(radii < 1, 1000 * (1 - radii) + noise, 0).astype(np.int16)
    path = folder / "large.nii.gz"
    nibabel.Nifti1Image(voxels, np.eye(4)).to_filename(path)
    return path


def _last_ms(page: Page) -> float:
    durations: list[float] = page.evaluate("performance.getEntriesByName('drop to picture').map((one) => one.duration)")
    return durations[-1]


if __name__ == "__main__":
    main()
