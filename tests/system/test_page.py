"""The page as its users see it: a real Chromium before a factory that requires API keys."""

import itertools
import re
import zipfile
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Literal

import nibabel
import numpy as np
import pytest
import SimpleITK
from axe_playwright_python.sync_playwright import Axe
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Browser, Page, ViewportSize, expect
from redis import Redis

from tests.fixtures.browser import chromium
from tests.fixtures.project import DICOM_SERIES, HIPPOCAMPUS
from tests.system.serve_process import ServeProcess
from tests.system.test_hangs import LONG, noise
from unet_factory.platform.api_keys import KeyStore, Scope
from unet_factory_cli.embedded import EmbeddedServer
from unet_factory_cli.serve import jobs_folder
from unet_factory_client import FactoryClient, FactoryProblem

pytestmark = [pytest.mark.browser, pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(240)]

EXAMPLE = HIPPOCAMPUS / "images" / "hippocampus_004.nii.gz"
WITHIN_MS = 60_000
COLOURFUL = 30  # between the strongest and the weakest of red, green and blue
WINDOW: ViewportSize = {"width": 960, "height": 640}

Pixels = NDArray[np.int16]


@dataclass
class Visit:
    """A tab on the page, and what it did: addresses it asked, errors it met."""

    page: Page
    client: FactoryClient
    asked: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def open(self, url: str) -> None:
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda said: self.errors.append(said.text) if _is_violation(said.text) else None)
        self.page.goto(url)

    def give_key(self, token: str) -> None:
        self.page.get_by_label("Key", exact=True).fill(token)
        self.page.get_by_role("button", name="Use this key").click()

    def drop(self, name: str, content: bytes) -> None:
        self.page.evaluate(
            """async ({name, url}) => {
                const transfer = new DataTransfer();
                const bytes = Uint8Array.from(atob(url), (one) => one.charCodeAt(0));
                transfer.items.add(new File([bytes], name));
                document.dispatchEvent(new DragEvent("drop", {dataTransfer: transfer, bubbles: true}));
            }""",
            {"name": name, "url": b64encode(content).decode()},
        )
        expect(self.page.locator("#scan-name")).to_have_text(name)

    def see(self, name: str, content: bytes) -> None:
        self.drop(name, content)
        expect(self.page.locator("figcaption")).to_have_text(name)

    def segment(self) -> str:
        """The id of the job, once its result is shown."""
        self.page.get_by_role("button", name="Segment", exact=True).click()
        return self.result()

    def segment_by_keyboard(self) -> str:
        """From the first element of the page to the button with Tab alone."""
        self.page.evaluate("document.activeElement.blur()")
        for _ in range(40):
            self.page.keyboard.press("Tab")
            if self.page.evaluate("document.activeElement.id") == "start":
                break
        self.page.keyboard.press("Enter")
        return self.result()

    def result(self) -> str:
        expect(self.page.locator("#result")).to_be_visible()
        return self.page.locator("#result").get_attribute("data-job") or ""

    def download(self, name: str) -> bytes:
        with self.page.expect_download() as started:
            self.page.get_by_role("button", name=name, exact=True).click()
        return started.value.path().read_bytes()

    def pixels(self, pane: int = 0) -> Pixels:
        """(row, column, red green blue) of the picture; of the second one where there are two."""
        shot = self.page.locator("canvas").nth(pane).screenshot()
        return np.asarray(Image.open(BytesIO(shot)).convert("RGB"), dtype=np.int16)

    def faults(self) -> list[str]:
        """What axe-core finds serious, in light and dark, wide and narrow; and a page wider than its window."""
        found = []
        schemes: tuple[Literal["light", "dark"], ...] = ("light", "dark")
        for scheme, width in itertools.product(schemes, (960, 380)):
            self.page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
            self.page.set_viewport_size({"width": width, "height": 640})
            if self.page.evaluate("document.documentElement.scrollWidth > innerWidth"):
                found.append(f"{width}: wider than its window")
            violations = Axe().run(self.page).response["violations"]
            found += [
                f"{scheme}, {width}: {fault['id']} at {fault['nodes'][0]['target']}"
                for fault in violations
                if fault["impact"] in ("serious", "critical")
            ]
        self.page.set_viewport_size(WINDOW)
        return found


def _is_violation(text: str) -> bool:
    return "Content Security Policy" in text or "Content-Security-Policy" in text


def coloured(pixels: Pixels) -> int:
    """How many pixels are not grey."""
    return int((pixels.max(axis=2) - pixels.min(axis=2) > COLOURFUL).sum())


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=WITHIN_MS)
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def factory(browser: Browser, tmp_path_factory: pytest.TempPathFactory, tiny_models: Path) -> Iterator[ServeProcess]:
    settings = {"authentication": "required", "threads": 1, "device": "cpu", "precision": "float32"}
    serve = ServeProcess(tmp_path_factory.mktemp("serve"), tiny_models, **settings)
    try:
        yield serve
        assert serve.stop() == 0, serve.log
    finally:
        serve.kill()


@pytest.fixture(scope="module")
def token(factory: ServeProcess) -> str:
    with Redis.from_url(EmbeddedServer.url_in(jobs_folder(factory.data_dir))) as redis:
        return KeyStore(redis).create("tests", (Scope.SEGMENT, Scope.WEIGHTS)).token


@pytest.fixture(scope="module")
def visit(browser: Browser, factory: ServeProcess, token: str) -> Iterator[Visit]:
    """One tab for all tests; in the end it asked no other host for anything and broke no rule of its policy."""
    page = browser.new_page(viewport=WINDOW)
    page.set_default_timeout(WITHIN_MS)
    with FactoryClient(factory.url, api_key=token) as client:
        visit = Visit(page, client)
        visit.open(factory.url)
        yield visit
    page.close()
    assert not [url for url in visit.asked if not url.startswith((factory.url, "data:", "blob:"))]
    assert visit.errors == []


@pytest.mark.parametrize("path", ["docs", "redoc"])
def test_the_api_is_documented_without_other_hosts(browser: Browser, factory: ServeProcess, path: str) -> None:
    page = browser.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"{factory.url}/{path}")
    expect(page.get_by_text("Upload a scan to be segmented").filter(visible=True).first).to_be_visible()
    page.close()
    assert errors == []


def test_the_page_asks_for_a_key_until_it_has_a_valid_one(visit: Visit, token: str) -> None:
    visit.give_key("unf_wrong")
    expect(visit.page.locator("#key-why")).to_contain_text("not valid")
    visit.give_key(token)
    expect(visit.page.locator("#model option")).to_have_count(1)


def test_a_dropped_scan_is_shown_segmented_and_downloaded(visit: Visit, tmp_path: Path) -> None:
    visit.see(EXAMPLE.name, EXAMPLE.read_bytes())
    assert coloured(visit.pixels()) == 0
    job_id = visit.segment()
    overlaid = coloured(visit.pixels())
    assert overlaid > 1000
    volumes = visit.client.job(job_id).volumes_ml or {}
    for label, volume in volumes.items():
        expect(visit.page.locator("#labels")).to_contain_text(f"{label}{volume:.2f} ml")
    assert visit.download("Label map") == visit.client.labelmap(job_id, tmp_path / "labels.nii.gz").read_bytes()
    assert visit.download("Network (safetensors)")[8:9] == b"{"
    for box in visit.page.locator("#labels input").all():
        box.uncheck()
    assert coloured(visit.pixels()) == 0


def test_segmented_in_the_browser_it_is_the_servers_label_map_and_nothing_is_uploaded(
    visit: Visit, tmp_path: Path
) -> None:
    """The scan takes several windows of this model."""
    there = tmp_path / "there.nii.gz"
    job = visit.client.segment(EXAMPLE, there)
    visit.see(EXAMPLE.name, EXAMPLE.read_bytes())
    asked = len(visit.asked)
    visit.page.get_by_role("button", name="Segment in this browser").click()
    assert visit.result() == ""
    assert not [url for url in visit.asked[asked:] if "/segmentations" in url]
    assert coloured(visit.pixels()) > 1000
    expect(visit.page.locator("#result-facts")).to_contain_text("was not uploaded")
    (tmp_path / "here.nii").write_bytes(visit.download("Label map"))
    here, labels = (nibabel.Nifti1Image.from_filename(path) for path in (tmp_path / "here.nii", there))
    assert here.affine.tobytes() == labels.affine.tobytes()
    equal = np.asarray(here.dataobj) == np.asarray(labels.dataobj)
    assert equal.mean() >= 0.999
    for label, volume in (job.volumes_ml or {}).items():
        shown = visit.page.locator("#labels tr", has_text=label).locator("td").last.inner_text()
        assert float(shown.removesuffix(" ml")) == pytest.approx(volume, rel=0.01, abs=0.01)


def test_a_spacing_that_the_model_does_not_know_is_refused_in_the_browser_too(visit: Visit) -> None:
    visit.see(EXAMPLE.name, EXAMPLE.read_bytes())
    visit.page.get_by_text("More options").click()
    visit.page.get_by_label("Correct the spacing").fill("9,9,9")
    visit.page.get_by_role("button", name="Segment in this browser").click()
    expect(visit.page.get_by_role("alert")).to_contain_text("trained range")
    visit.page.get_by_label("Correct the spacing").fill("")
    visit.page.get_by_text("More options").click()


def test_a_spacing_in_microns_is_shown_in_mm(visit: Visit) -> None:
    scan = nibabel.Nifti1Image.from_filename(EXAMPLE)
    scan.set_sform(scan.affine @ np.diag([1000, 1000, 1000, 1]))
    scan.set_qform(scan.get_sform())
    scan.header.set_xyzt_units("micron")
    visit.see("scan.nii", scan.to_bytes())
    expect(visit.page.locator("#scan-facts")).to_contain_text(re.compile("36 . 52 . 38 voxels of 1 . 1 . 1 mm"))
    expect(visit.page.get_by_role("alert")).to_have_count(0)


@pytest.mark.parametrize("suffix", ["nrrd", "mha"])
def test_other_formats_are_shown_and_segmented_as_well(visit: Visit, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"scan.{suffix}"
    SimpleITK.WriteImage(SimpleITK.ReadImage(str(EXAMPLE)), str(path))
    visit.see(path.name, path.read_bytes())
    expect(visit.page.locator("#scan-facts")).to_contain_text(re.compile("36 . 52 . 38 voxels of 1 . 1 . 1 mm"))
    assert visit.client.job(visit.segment()).volumes_ml == visit.client.job(visit.segment_by_keyboard()).volumes_ml


def test_a_folder_of_dicom_files_gives_dicom_results(visit: Visit, tmp_path: Path) -> None:
    visit.page.locator("#folder").set_input_files(DICOM_SERIES)
    expect(visit.page.locator("figcaption")).to_contain_text("files)")
    job_id = visit.segment()
    assert visit.client.job(job_id).dicom
    assert visit.download("DICOM SEG") == visit.client.seg(job_id, tmp_path / "seg.dcm").read_bytes()


def test_a_spacing_outside_the_trained_range_is_a_warning(visit: Visit) -> None:
    visit.see(EXAMPLE.name, EXAMPLE.read_bytes())
    visit.page.get_by_text("More options").click()
    corrected = visit.page.get_by_label("Correct the spacing")
    corrected.fill("9,9,9")
    visit.segment()
    expect(visit.page.get_by_role("list", name="Warnings")).to_contain_text("outside the range")
    corrected.fill("")
    visit.page.get_by_text("More options").click()


def test_mirror_images_are_segmented_too_where_the_model_allows_it(visit: Visit) -> None:
    visit.page.get_by_text("More options").click()
    choice = visit.page.get_by_label("mirror images")
    choice.check()
    assert visit.client.job(visit.segment()).mirrored_axes == ("R",)
    choice.uncheck()
    visit.page.get_by_text("More options").click()


def test_a_zipped_dicom_series_gives_dicom_results(visit: Visit, tmp_path: Path) -> None:
    packed = BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for file in sorted(DICOM_SERIES.glob("*.dcm")):
            archive.write(file, file.name)
    visit.see("series.zip", packed.getvalue())
    job_id = visit.segment()
    assert coloured(visit.pixels()) > 1000
    assert visit.download("DICOM report") == visit.client.report(job_id, tmp_path / "report.dcm").read_bytes()


def test_what_is_wrong_with_a_file_is_said_in_the_servers_words(visit: Visit) -> None:
    visit.drop("notes.nii", Path(__file__).read_bytes())
    expect(visit.page.locator(".stage")).to_have_attribute("data-text", re.compile("cannot show this file"))
    visit.page.get_by_role("button", name="Segment", exact=True).click()
    problem = visit.page.get_by_role("alert")
    expect(problem).to_be_visible()
    with pytest.raises(FactoryProblem) as refused:
        visit.client.submit(Path(__file__))
    expect(problem).to_contain_text(refused.value.detail)


def test_two_spacings_lie_side_by_side_and_the_crosshairs_move_together(visit: Visit) -> None:
    page = visit.page
    visit.see(EXAMPLE.name, EXAMPLE.read_bytes())
    fine = visit.segment()
    page.locator("#spacing").press("ArrowRight")
    page.get_by_role("button", name="side by side").click()
    expect(page.locator("figcaption")).to_have_count(2)
    expect(page.locator("#result")).not_to_have_attribute("data-job", fine)
    coarse = page.locator("#result").get_attribute("data-job") or ""
    spacings = [visit.client.job(job_id).spacing.working for job_id in (fine, coarse)]
    assert spacings[0] != spacings[1]
    before = [visit.pixels(pane) for pane in (0, 1)]
    page.locator("canvas").nth(1).press("PageUp")
    expect(page.locator("#location")).to_contain_text("mm")
    assert all((visit.pixels(pane) != before[pane]).any() for pane in (0, 1))


def test_jobs_are_listed_and_the_system_shown_and_both_are_accessible(visit: Visit) -> None:
    page = visit.page
    serious = [visit.faults()]
    page.get_by_role("link", name="Jobs").click()
    page.get_by_role("button", name="Details").first.click()
    expect(page.get_by_role("img", name=re.compile("Three planes"))).to_be_visible()
    first = page.locator("#job-list li").first
    expect(first.get_by_role("button", name="Label map")).to_be_visible()
    expect(first.get_by_role("button", name="DICOM")).to_have_count(0)
    listed = page.locator("#job-list li").count()
    serious.append(visit.faults())
    page.get_by_role("button", name="Delete").first.click()
    expect(page.locator("#job-list li")).to_have_count(listed - 1)
    page.get_by_role("link", name="System").click()
    expect(page.locator("#workers tbody tr")).to_have_count(1)
    expect(page.locator("#models")).to_contain_text("tiny (default)")
    serious.append(visit.faults())
    page.get_by_role("link", name="Segment").click()
    assert serious == [[], [], []]


def test_a_running_job_can_be_cancelled(visit: Visit, tmp_path: Path) -> None:
    visit.drop("long.nii.gz", noise(tmp_path, LONG).read_bytes())
    visit.page.get_by_role("button", name="Segment", exact=True).click()
    expect(visit.page.locator("#state")).to_have_text(re.compile("Segmenting, "))
    with visit.page.expect_response(lambda answer: answer.request.method == "DELETE") as deleted:
        visit.page.get_by_role("button", name="Cancel").click()
    assert deleted.value.status == 204
    expect(visit.page.locator("#progress")).to_be_hidden()
    with pytest.raises(FactoryProblem, match="purged"):
        visit.client.job(deleted.value.url.rpartition("/")[2])
