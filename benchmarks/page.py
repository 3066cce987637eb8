"""The page in Debian's Chromium: how much it loads, how soon a scan is seen, and segmenting in the browser."""

import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
from playwright.sync_api import Page, Response

from benchmarks.models import SHIPPED
from benchmarks.rows import Row, area, at_least, at_most
from benchmarks.timing import quartiles
from tests.fixtures.browser import chromium
from tests.fixtures.project import HIPPOCAMPUS
from tests.system.serve_process import ServeProcess

_EXAMPLE = HIPPOCAMPUS / "images" / "hippocampus_004.nii.gz"
_LARGE = (256, 256, 180)
_ROUNDS = 3
_WITHIN_MS = 300_000


@area("page", "The page")
def page() -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as name, chromium() as browser:
        folder = Path(name)
        serve = ServeProcess(folder, SHIPPED, precision="float32", device="cpu")
        try:
            tab = browser.new_page(viewport={"width": 1360, "height": 900})
            tab.set_default_timeout(_WITHIN_MS)
            yield _loaded(tab, serve.url)
            yield _gateway_memory(serve)
            yield _drop_to_picture(tab, _large_scan(folder))
            yield from _in_the_browser(tab, serve, folder)
        finally:
            serve.stop()


def _loaded(tab: Page, url: str) -> Row:
    answers: list[Response] = []
    tab.on("response", lambda answer: answers.append(answer))
    tab.goto(url)
    tab.locator("#model option").first.wait_for(state="attached")
    megabytes = sum(len(answer.body()) for answer in answers) / 1e6
    return Row(name="all that / loads at once", value=megabytes, unit="MB", aim=at_most(5))


def _gateway_memory(serve: ServeProcess) -> Row:
    status = Path(f"/proc/{serve.pid_of('unet_factory_cli', 'gateway')}/status").read_text()
    (kilobytes,) = (int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))
    return Row(name="memory of the gateway that served it", value=kilobytes * 1024 / 1e6, unit="MB", aim=at_most(150))


def _drop_to_picture(tab: Page, scan: Path) -> Row:
    for _ in range(_ROUNDS + 1):
        tab.locator("#files").set_input_files(_EXAMPLE)
        tab.locator("figcaption").filter(has_text=_EXAMPLE.name).wait_for()
        tab.locator("#files").set_input_files(scan)
        tab.locator("figcaption").filter(has_text=scan.name).wait_for()
    measured = "performance.getEntriesByName('drop to picture').map((one) => one.duration)"
    took_ms = tuple(tab.evaluate(measured)[3::2])  # every second one is of the small scan, the first of a cold page
    return Row(
        name="from the drop of 256 x 256 x 180 voxels to their picture",
        value=statistics.median(took_ms),
        unit="ms",
        spread=quartiles(took_ms),
        aim=at_most(1000),
        note="without a graphics card: the processor draws",
    )


def _in_the_browser(tab: Page, serve: ServeProcess, folder: Path) -> Iterator[Row]:
    took_s = []
    for _ in range(_ROUNDS + 1):
        tab.locator("#files").set_input_files(_EXAMPLE)
        tab.locator("figcaption").filter(has_text=_EXAMPLE.name).wait_for()
        started = time.perf_counter()
        tab.get_by_role("button", name="Segment in this browser").click()
        tab.locator("#result").wait_for()
        took_s.append(time.perf_counter() - started)
    spread = quartiles(tuple(took_s[1:]))
    yield Row(name="a hippocampus in the browser", value=statistics.median(took_s[1:]), unit="s", spread=spread)
    with tab.expect_download() as started_download:
        tab.get_by_role("button", name="Label map").click()
    (folder / "here.nii").write_bytes(started_download.value.path().read_bytes())
    with serve.client as client:
        job = client.segment(_EXAMPLE)
        there = np.asarray(client.label_image(job.id).dataobj)
    here = np.asarray(nibabel.Nifti1Image.from_filename(folder / "here.nii").dataobj)
    equal = float((here == there).mean()) * 100
    yield Row(name="its voxels with the server's label", value=equal, unit="%", aim=at_least(99.9))


def _large_scan(folder: Path) -> Path:
    """A ball that fades outwards, with some noise."""
    radii = np.sqrt(sum(axis**2 for axis in np.meshgrid(*(np.linspace(-1, 1, n) for n in _LARGE), indexing="ij")))
    noise = np.random.default_rng(0).normal(0, 20, _LARGE)
    voxels = np.where(radii < 1, 1000 * (1 - radii) + noise, 0).astype(np.int16)
    path = folder / "large.nii.gz"
    nibabel.Nifti1Image(voxels, np.eye(4)).to_filename(path)
    return path
