"""The paper's own comparison on data laid out as its owners distribute it: read, and trained for two steps."""

import os
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK

from tests.fixtures.project import RESEARCH_CONFIGS
from unet_factory.domain.manifest import Parametrization
from unet_factory.model.checkpoint import load_checkpoint
from unet_factory_research.comparison.compare import compare
from unet_factory_research.comparison.config import Comparison, read_comparison
from unet_factory_research.comparison.runs import learning_curves, runs_of

SHAPE = (20, 24, 24)
SMALL = {
    "architecture.channels": [4, 8],
    "architecture.blocks": 1,
    "hypernetwork.hidden": [4, 4],
    "batch": {"min_scans": 1, "max_scans": 1, "max_patch": [16, 16, 16], "pad_to_max_patch": True},
    "optimisation.iterations": 2,
    "loader_workers": 0,
    "validate_every": 2,
}


@pytest.mark.parametrize("name", ["brats", "spider", "mmwhs"])
def test_the_papers_comparison_runs_on_data_as_distributed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNET_FACTORY_DATA", os.fspath(tmp_path))
    WRITERS[name](tmp_path)
    comparison = read_comparison(RESEARCH_CONFIGS / f"{name}.yaml")
    _assert_arms_of_the_paper(comparison)
    small = comparison.model_copy(update={"overrides": SMALL})
    compare(small, tmp_path / "output", only="train", arms=["HyperSpace", "FS"], device="cpu")
    runs = {run.arm: run for run in runs_of(small, tmp_path / "output")}
    for arm in ("HyperSpace", "FS"):
        manifest = load_checkpoint(runs[arm].checkpoint).manifest
        assert manifest.grid.range_mm == runs[arm].config.grid.range_mm
    assert set(learning_curves(list(runs.values()))["arm"]) == {"HyperSpace", "FS"}


def _assert_arms_of_the_paper(comparison: Comparison) -> None:
    """One fixed network for FS and FSNR, trained on scans of the whole range; AS over the whole range."""
    hyperspace, fixed, augmented = (comparison.training_config(arm, 1) for arm in ("HyperSpace", "FS", "AS"))
    assert hyperspace.hypernetwork.parametrization is Parametrization.PAPER
    assert {fixed.hypernetwork.parametrization, augmented.hypernetwork.parametrization} == {Parametrization.CONSTANT}
    assert [low for low, _ in fixed.trained_range_mm] == [high for _, high in fixed.trained_range_mm]
    assert tuple(low for low, _ in fixed.trained_range_mm) == comparison.fixed_mm
    assert fixed.sampling.acquired_mm == augmented.trained_range_mm == hyperspace.trained_range_mm
    assert comparison.arms["FSNR"].source == "FS"


def _brats(folder: Path) -> None:
    for case in (f"BraTS2021_{number:05}" for number in range(8)):
        _save_nifti(folder / "brats2021" / case / f"{case}_t1ce.nii.gz", _image(), (1, 1, 1))
        _save_nifti(folder / "brats2021" / case / f"{case}_seg.nii.gz", _labels([0, 1, 2, 4]), (1, 1, 1))


def _spider(folder: Path) -> None:
    """Sagittal slices of 4 mm, last in the file, whose axes run to posterior, inferior and left."""
    for patient in range(1, 9):
        for kind, voxels in (("images", _image()), ("masks", _labels([0, 1, 5, 100, 201]))):
            path = folder / "spider" / kind / f"{patient}_t1.mha"
            path.parent.mkdir(parents=True, exist_ok=True)
            image = SimpleITK.GetImageFromArray(np.ascontiguousarray(voxels.transpose(2, 1, 0)))
            image.SetSpacing([0.6, 0.6, 4.0])
            image.SetDirection([0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, -1.0, 0.0])
            SimpleITK.WriteImage(image, str(path))


def _mmwhs(folder: Path) -> None:
    labels = _labels([0, 500, 600, 420, 550, 205, 820, 850])
    for number in range(1001, 1021):
        stem = folder / "mmwhs" / "mr_train" / f"mr_train_{number}"
        _save_nifti(stem.with_name(f"{stem.name}_image.nii.gz"), _image(), (0.9, 0.9, 1.2))
        _save_nifti(stem.with_name(f"{stem.name}_label.nii.gz"), labels, (0.9, 0.9, 1.2))


WRITERS = {"brats": _brats, "spider": _spider, "mmwhs": _mmwhs}


def _image() -> np.ndarray:
    return np.random.default_rng(0).normal(100, 20, SHAPE).astype(np.int16)


def _labels(values: list[int]) -> np.ndarray:
    """One value after the other along the first axis."""
    return np.broadcast_to(np.resize(values, SHAPE[0]).astype(np.int16)[:, None, None], SHAPE)


def _save_nifti(path: Path, voxels: np.ndarray, spacing_mm: tuple[float, float, float]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([*spacing_mm, 1.0])), path)
