"""README, quick starts and examples: what they tell to type works, against a factory that runs."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nbformat
import nibabel
import numpy as np
import pytest
from markdown_it import MarkdownIt

from tests.fixtures.project import DICOM_SERIES, HIPPOCAMPUS, MODELS, PROJECT
from tests.notebooks import NOTEBOOKS, run
from tests.system.serve_process import ServeProcess, environment

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(400)]

PAGES = [PROJECT / "README.md", *sorted((PROJECT / "docs" / "start").glob("*.md"))]
COMPUTING = {"precision": "float32"}
AGREEMENT = 0.9999
LEFT_OUT = "Not run by the tests: "
URL = "http://127.0.0.1:8000"
SERVE = re.compile(r"^unet-factory serve\b.*\n", re.MULTILINE)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quick") / "models"
    folder.mkdir()
    for name in ("default", "hippocampus-mr.safetensors"):
        shutil.copy(MODELS / name, folder)
    return folder


@pytest.fixture(scope="module")
def factory(models: Path) -> Iterator[ServeProcess]:
    """What the block ``unet-factory serve`` starts, on a free port."""
    serve = ServeProcess(models.parent, models, calibrate=False, **COMPUTING)
    yield serve
    serve.kill()


@pytest.fixture
def folder(factory: ServeProcess, models: Path, tmp_path: Path) -> Path:
    """Where a reader works: with what the pages say a user has, and beside the models."""
    shutil.copy(HIPPOCAMPUS / "images" / "hippocampus_004.nii.gz", tmp_path / "scan.nii.gz")
    shutil.copytree(DICOM_SERIES, tmp_path / "series")
    shutil.copytree(HIPPOCAMPUS / "images", tmp_path / "scans")
    for part in ("images", "labels"):
        shutil.copytree(HIPPOCAMPUS / part, tmp_path / "my-data" / part)
    (tmp_path / "models").symlink_to(models)
    (tmp_path / ".local").mkdir()
    (tmp_path / ".local" / "unet-factory").symlink_to(factory.data_dir)  # where `serve` keeps its data unless told
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_a_quick_start_tells_to_type_works(page: Path, factory: ServeProcess, folder: Path) -> None:
    type_in("".join(commands(page)), folder, factory)


@pytest.mark.parametrize("example", ["plain_torch", "onnx_runtime"])
def test_a_network_outside_the_factory_gives_the_same_label_map(
    example: str, factory: ServeProcess, folder: Path
) -> None:
    source = (PROJECT / "examples" / f"{example}.py").read_text()
    (folder / f"{example}.py").write_text(source)
    told = re.findall(r"^    (?:curl|python) .*\n", source, re.MULTILINE)
    type_in("".join(told), folder, factory)
    with factory.client as client:
        client.segment(folder / "scan.nii.gz", folder / "expected.nii.gz")
    found, expected = (
        nibabel.Nifti1Image.from_filename(folder / name) for name in ("labels.nii.gz", "expected.nii.gz")
    )
    assert np.array_equal(found.affine, expected.affine)
    same = np.asarray(found.dataobj) == np.asarray(expected.dataobj)
    assert same.mean() >= AGREEMENT
    assert np.count_nonzero(np.asarray(expected.dataobj)) > 1000


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_a_notebook_runs_to_its_end_and_keeps_what_it_showed(
    notebook: Path, factory: ServeProcess, tmp_path: Path
) -> None:
    kept = nbformat.read(notebook, as_version=4)
    shown = run(notebook, factory.url, tmp_path)
    for before, after in zip(kept.cells, shown.cells, strict=True):
        assert kinds(before) == kinds(after), before.source


def kinds(cell: nbformat.NotebookNode) -> list[str]:
    """What a cell shows: text, a value, a picture."""
    return [output.output_type for output in cell.get("outputs", [])]


def test_few_blocks_are_left_out_and_each_says_why() -> None:
    left_out = [block for page in PAGES for block in blocks(page) if block.reason]
    assert len(PAGES) > 5
    assert all(block.reason.removeprefix(LEFT_OUT) for block in left_out)
    assert len(left_out) <= 3


def type_in(commands: str, folder: Path, factory: ServeProcess) -> None:
    """In a shell, with this environment's commands first; the factory's port stands for the usual one."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands.replace(URL, factory.url)],
        cwd=folder,
        env=environment(url=factory.url, **COMPUTING) | {"PATH": path, "XDG_DATA_HOME": str(folder / ".local")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


@dataclass(frozen=True)
class Block:
    """A fenced block in bash or Python, and why it is not run, where the paragraph above it says so."""

    language: str
    text: str
    reason: str


def blocks(page: Path) -> Iterator[Block]:
    above = ""
    for token in MarkdownIt().parse(page.read_text()):
        if token.type == "inline":
            above = token.content
        elif token.type == "fence" and token.info in ("bash", "python"):
            yield Block(token.info, token.content, above.strip("*") if LEFT_OUT in above else "")
            above = ""


def commands(page: Path) -> Iterator[str]:
    """A page's blocks as one script, so that what one sets the next can use; ``serve`` runs already."""
    for block in blocks(page):
        if block.reason:
            continue
        text = SERVE.sub("", block.text)
        yield text if block.language == "bash" else f"python - <<'END OF PYTHON'\n{text}END OF PYTHON\n"
