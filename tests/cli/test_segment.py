"""``unet-factory segment --local`` and ``unet_factory.segment``: one scan or many."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from typer.testing import CliRunner, Result

import unet_factory
from tests.fixtures.project import PROJECT
from tests.fixtures.volume_files import phantom, write_nifti
from unet_factory.domain.errors import SpacingOutOfRange
from unet_factory.domain.segmentation_parameters import SegmentationParameters
from unet_factory.platform.model_registry import ModelRegistry
from unet_factory_cli.commands import app

COMPUTING = ("--device", "cpu", "--precision", "float32")
SERIES = PROJECT / "examples" / "dicom" / "PGBM-002_HippoCrop"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Two volumes, a DICOM series, a damaged volume and a file that is no scan."""
    scans = tmp_path / "scans"
    (scans / "deep" / "er").mkdir(parents=True)
    write_nifti(scans / "one.nii.gz")
    write_nifti(scans / "deep" / "er" / "two.nii.gz", phantom((9, 6, 7)))
    shutil.copytree(SERIES, scans / "deep" / "series")
    (scans / "deep" / "damaged.nii.gz").write_bytes(b"not gzipped")
    (scans / "notes.txt").write_text("no scan")
    return scans


def segment(models: Path, *arguments: str | Path) -> Result:
    words = ["segment", *map(str, arguments), "--local", "--models", str(models), *COMPUTING]
    return CliRunner().invoke(app, words, env={"COLUMNS": "200"})


def files_in(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_a_folder_is_mirrored_past_what_is_damaged_and_what_is_there_is_kept(
    tree: Path, tmp_path: Path, tiny_models: Path
) -> None:
    out, statistics = tmp_path / "out", tmp_path / "found.csv"
    result = segment(tiny_models, tree, "-o", out, "--preview", out, "--statistics", statistics, "--jobs", "2")
    assert result.exit_code == 1
    assert "1 of 4 scans could not be segmented" in result.stderr
    assert "3 segmented, 0 kept, 1 failed" in result.stderr
    stems = {"one", "deep/er/two", "deep/series"}
    first = files_in(out)
    assert set(first) == {f"{stem}{end}" for stem in stems for end in (".nii.gz", ".png")}
    with statistics.open() as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["name"] for row in rows) == ["", *["anterior"] * 3, *["posterior"] * 3]
    assert [row["scan"] for row in rows if row["error"]] == [str(tree / "deep" / "damaged.nii.gz")]
    (tree / "deep" / "damaged.nii.gz").unlink()
    (out / "deep" / "series.png").unlink()
    again = segment(tiny_models, tree, "-o", out, "--preview", out)
    assert again.exit_code == 0, again.output
    assert "1 segmented, 2 kept, 0 failed" in again.stderr
    assert {name for name, at in files_in(out).items() if first.get(name) == at} == {
        f"{stem}{end}" for stem in stems - {"deep/series"} for end in (".nii.gz", ".png")
    }


def test_what_lies_in_the_output_folder_is_no_scan(tree: Path, tiny_models: Path) -> None:
    (tree / "deep" / "damaged.nii.gz").unlink()
    for kept in (0, 3):
        result = segment(tiny_models, tree, "-o", tree / "results")
        assert f"{3 - kept} segmented, {kept} kept" in result.stderr


def test_json_tells_each_scan_on_a_line_and_nothing_else(tree: Path, tmp_path: Path, tiny_models: Path) -> None:
    result = segment(
        tiny_models, tree / "one.nii.gz", tree / "deep" / "damaged.nii.gz", "-o", tmp_path / "out", "--json"
    )
    assert result.exit_code == 1
    told: dict[str, dict[str, Any]] = {
        Path(line["scan"]).name: line for line in map(json.loads, result.stdout.splitlines())
    }
    assert told["damaged.nii.gz"]["error"]["type"] == "urn:unet-factory:problem:not-a-volume"
    assert told["one.nii.gz"]["model"] == "tiny"
    assert told["one.nii.gz"]["checkpoint_digest"] == ModelRegistry.scan(tiny_models).get().digest
    labels = np.asarray(nibabel.Nifti1Image.from_filename(told["one.nii.gz"]["output"]).dataobj)
    voxel_ml = np.prod(told["one.nii.gz"]["spacing"]["native"]) / 1000
    for value, name in ((1, "anterior"), (2, "posterior")):
        assert told["one.nii.gz"]["volumes_ml"][name] == pytest.approx((labels == value).sum() * voxel_ml)


def test_statistics_are_those_of_the_voxels_under_each_label(tmp_path: Path, tiny_models: Path) -> None:
    scan, output, file = write_nifti(tmp_path / "scan.nii.gz"), tmp_path / "labels.nii.gz", tmp_path / "found.json"
    assert segment(tiny_models, scan, "-o", output, "--statistics", file).exit_code == 0
    (found,) = json.loads(file.read_text())
    image, labels = (np.asarray(nibabel.Nifti1Image.from_filename(path).dataobj) for path in (scan, output))
    for label in found["labels"]:
        inside = image[labels == label["value"]]
        assert label["voxels"] == inside.size > 0
        for name, expected in (("mean", inside.mean()), ("sd", inside.std()), ("maximum", inside.max())):
            assert label[name] == pytest.approx(expected, rel=1e-5)
    assert found["policy"]["outside"] == "clamp"
    assert set(found["timings_s"]) == {"load", "weights", "infer"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{one}", "-o", "{out}/a.onnx"], "must end with .nii.gz, .nrrd or .dcm"),
        (["{one}", "{one}", "-o", "{out}/a.nii.gz"], "several scans need a folder"),
        (["{one}", "{one}", "-o", "{out}"], "would both become"),
        (["{one}", "-o", "{out}/a.nii.gz", "--preview", "{out}/a.jpg"], "must end with .png"),
        (["{one}", "-o", "{out}/a.nii.gz", "--statistics", "{out}/a.xlsx"], "must end with .json or .csv"),
        (["{one}", "-o", "{out}/a.dcm"], "made by a gateway"),
        (["{one}", "-o", "{out}/a.nii.gz", "--send-to", "main"], "--send-to needs a gateway"),
        (["{empty}", "-o", "{out}"], "there is no scan in"),
        (["{one}", "-o", "{out}/a.nii.gz", "--device", "cuda:77"], "there is no usable GPU"),
    ],
)
def test_what_contradicts_itself_is_refused_before_anything_is_done(
    tmp_path: Path, tiny_models: Path, arguments: list[str], said: str
) -> None:
    places = {"one": str(write_nifti(tmp_path / "one.nii.gz")), "out": str(tmp_path / "out")}
    for name in ("out", "empty"):
        (tmp_path / name).mkdir()
    filled = [word.format(empty=tmp_path / "empty", **places) for word in arguments]
    result = CliRunner().invoke(app, ["segment", *filled, "--local", "--models", str(tiny_models)])
    assert (result.exit_code, said in result.stderr) == (2, True), result.output
    assert files_in(tmp_path / "out") == {}


def test_python_gives_the_same_labels_for_a_path_and_an_image(tmp_path: Path, tiny_models: Path) -> None:
    scan = write_nifti(tmp_path / "scan.nii.gz")
    assert segment(tiny_models, scan, "-o", tmp_path / "labels.nii.gz").exit_code == 0
    expected = nibabel.Nifti1Image.from_filename(tmp_path / "labels.nii.gz")
    image = nibabel.Nifti1Image.from_filename(scan)
    for given in (scan, str(scan), image, nibabel.Nifti1Image(np.asarray(image.dataobj), image.affine)):
        labels = unet_factory.segment(given, "tiny", models_dir=tiny_models, device="cpu", precision="float32")
        assert np.array_equal(np.asarray(labels.dataobj), np.asarray(expected.dataobj))
        assert np.array_equal(labels.affine, image.affine)
        assert labels.get_data_dtype() == np.uint8
        assert labels.extra["model"] == "tiny"


def test_python_says_what_was_adjusted_and_refuses_what_a_gateway_would(tmp_path: Path, tiny_models: Path) -> None:
    coarse = nibabel.Nifti1Image(np.random.default_rng(0).normal(size=(16, 16, 16)), np.diag([5.0, 5.0, 5.0, 1.0]))
    with pytest.warns(UserWarning, match="outside the trained range of tiny; the policy was clamp"):
        labels = unet_factory.segment(coarse, tiny_models / "tiny.safetensors", device="cpu")
    assert labels.extra["spacing"]["working"] == [3.5, 3.5, 3.5]
    with pytest.raises(SpacingOutOfRange):
        unet_factory.segment(
            coarse,
            tiny_models / "tiny.safetensors",
            parameters=SegmentationParameters.from_texts({"outside": "reject"}),
            device="cpu",
        )
