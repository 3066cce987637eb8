"""Data sets as they lie on people's disks: every form is found whole, or refused in words that name the file."""

import json
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from unet_factory.domain.errors import DatasetInvalid
from unet_factory_training.config import TrainingConfig
from unet_factory_training.dataset_config import DatasetConfig
from unet_factory_training.datasets import Split, find_subjects, read_scan, read_split
from unet_factory_training.engine import EngineUnavailable, start_engine

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
APPLE_DOUBLE = bytes.fromhex("0005160700020000") + b"Mac OS X        " + bytes(64)
NAMES = [f"case_{number:03}" for number in range(1, 7)]
OBLIQUE = nibabel.affines.from_matvec(
    nibabel.eulerangles.euler2mat(0.1, 0.2, 0.3) @ np.diag([1.0, 1.5, 2.0]), (10, 20, -30)
)


def as_listed(root: Path) -> object:
    return {"training": [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in NAMES]}


def with_backslashes(root: Path) -> object:
    return {"training": [{"image": f".\\imagesTr\\{n}.nii.gz", "label": f"labelsTr\\{n}.nii.gz"} for n in NAMES]}


def with_lists_of_images(root: Path) -> object:
    return {"training": [{"image": [f"imagesTr/{n}.nii.gz"], "label": f"labelsTr/{n}.nii.gz"} for n in NAMES]}


def with_ghosts(root: Path) -> object:
    ghosts = [{"image": f"imagesTr/._{n}.nii.gz", "label": f"labelsTr/._{n}.nii.gz"} for n in NAMES]
    real = [{"image": f"imagesTr/{n}.nii.gz", "label": f"labelsTr/{n}.nii.gz"} for n in NAMES]
    return {"training": ghosts + real}


def of_version_1(root: Path) -> object:
    _number_channels(root)
    return as_listed(root) | {"modality": {"0": "MRI"}}  # type: ignore[operator]


def of_version_2(root: Path) -> object:
    _number_channels(root)
    return {"channel_names": {"0": "MRI"}, "labels": {"background": 0}, "numTraining": 6, "file_ending": ".nii.gz"}


def of_version_2_listed(root: Path) -> object:
    _number_channels(root)
    cases = {n: {"images": [f"imagesTr/{n}_0000.nii.gz"], "label": f"labelsTr/{n}.nii.gz"} for n in NAMES}
    return {"dataset": cases, "file_ending": ".nii.gz"}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize(
    "form",
    [
        as_listed,
        with_backslashes,
        with_lists_of_images,
        with_ghosts,
        of_version_1,
        of_version_2,
        of_version_2_listed,
    ],
)
def test_every_form_of_a_decathlon_data_set_gives_the_same_splits(
    tmp_path: Path, form: Callable[[Path], object], encoding: str
) -> None:
    for name in NAMES:
        _save_case(tmp_path, name)
    (tmp_path / "dataset.json").write_bytes(json.dumps(form(tmp_path)).encode(encoding))
    _litter(tmp_path)
    config = DatasetConfig(layout="msd", root=str(tmp_path))
    found = {split: [subject.name for subject in find_subjects(config, split)] for split in SPLITS}
    assert found == {
        "train": ["case_003", "case_004", "case_005"],
        "validation": ["case_002"],
        "test": ["case_001", "case_006"],
    }
    for split in SPLITS:
        assert all(scan.labels.max() == 1 for scan in read_split(config, split, 2))


def test_one_of_several_channels_has_to_be_chosen(tmp_path: Path) -> None:
    for name in NAMES:
        for channel in (0, 1):
            _save(tmp_path / "imagesTr" / f"{name}_{channel:04}.nii.gz", _image() * (1 - 2 * channel))
        _save(tmp_path / "labelsTr" / f"{name}.nii.gz", _labels())
    (tmp_path / "dataset.json").write_text(json.dumps({"file_ending": ".nii.gz"}))
    config = DatasetConfig(layout="msd", root=str(tmp_path))
    with pytest.raises(DatasetInvalid, match=r"case_003 has 2 channels; name one in dataset\.channel"):
        find_subjects(config, "train")
    first, second = (config.model_copy(update={"channel": channel}) for channel in (0, 1))
    images = [read_scan(find_subjects(one, "train")[0], one).image for one in (first, second)]
    assert np.allclose(images[0], -images[1], atol=1e-5)
    with pytest.raises(DatasetInvalid, match="not 2"):
        find_subjects(config.model_copy(update={"channel": 2}), "train")


@pytest.mark.parametrize(
    ("description", "said"),
    [
        ({"training": ["case_001", "case_002"]}, r"dataset\.json: case 0: .*labelsTr/NAME"),
        ({"training": [{"image": "imagesTr/case_001.nii.gz"}]}, r"case 0 label: Field required"),
        ({"training": 6}, "list"),
        ({"file_ending": ".nrrd"}, r"no files that end in \.nrrd"),
        ({"training": [{"image": "imagesTr/nobody.nii.gz", "label": "labelsTr/nobody.nii.gz"}]}, r"nobody\.nii\.gz"),
        ([], "must be a JSON object"),
    ],
)
def test_what_is_no_list_of_cases_is_said(tmp_path: Path, description: object, said: str) -> None:
    _save_case(tmp_path, "case_001")
    (tmp_path / "dataset.json").write_text(json.dumps(description))
    with pytest.raises(DatasetInvalid, match=said):
        find_subjects(DatasetConfig(layout="msd", root=str(tmp_path)), "test")


def test_an_image_without_a_label_map_is_named(tmp_path: Path) -> None:
    _save_case(tmp_path, "case_001")
    _save(tmp_path / "imagesTr" / "case_002_0000.nii.gz", _image())
    (tmp_path / "dataset.json").write_text(json.dumps({"file_ending": ".nii.gz"}))
    with pytest.raises(DatasetInvalid, match=r"case_002_0000\.nii\.gz has no label map"):
        find_subjects(DatasetConfig(layout="msd", root=str(tmp_path)), "test")


def test_files_of_file_managers_are_no_scans_in_any_layout(tmp_path: Path) -> None:
    for number in range(1, 7):
        _save(tmp_path / "brats" / f"C{number}" / f"C{number}_t1ce.nii.gz", _image())
        _save(tmp_path / "brats" / f"C{number}" / f"C{number}_seg.nii.gz", _labels())
        _save(tmp_path / "acdc" / f"patient{number}" / f"patient{number}_frame01.nii.gz", _image())
        _save(tmp_path / "acdc" / f"patient{number}" / f"patient{number}_frame01_gt.nii.gz", _labels())
        _save(tmp_path / "mmwhs" / f"mr_train_{number}_image.nii.gz", _image())
        _save(tmp_path / "mmwhs" / f"mr_train_{number}_label.nii.gz", _labels())
    for layout in ("brats", "acdc", "mmwhs"):
        _litter(tmp_path / layout)
        config = DatasetConfig(layout=layout, root=str(tmp_path / layout), label_map={1: 1})
        assert sum(len(read_split(config, split, 2)) for split in SPLITS) == 6
    _save_case(tmp_path / "own", "a", folders=("images", "labels"))
    (tmp_path / "own" / "splits.json").write_text(json.dumps({"train": ["._a.nii.gz", "a.nii.gz"]}))
    assert [s.name for s in find_subjects(DatasetConfig(root=str(tmp_path / "own")), "train")] == ["a"]


def test_a_label_map_on_another_grid_is_refused_with_both_grids(tmp_path: Path) -> None:
    config = _pair(tmp_path, OBLIQUE, np.diag([-1, -1, 1, 1]) @ OBLIQUE)
    with pytest.raises(
        DatasetInvalid, match=r"labels/a\.nii\.gz: its grid is not that of a\.nii\.gz: 12 x 10 x 8"
    ) as said:
        read_split(config, "train", 2)
    assert str(said.value).count("voxels of") == 2


@pytest.mark.parametrize("off_mm", [(0.3, 0, 0), (0, 0, 2.0)])
def test_a_shift_of_a_label_map_is_noticed(tmp_path: Path, off_mm: tuple[float, float, float]) -> None:
    with pytest.raises(DatasetInvalid, match="grid"):
        read_split(_pair(tmp_path, OBLIQUE, nibabel.affines.from_matvec(np.eye(3), off_mm) @ OBLIQUE), "train", 2)


def test_the_rounding_of_headers_is_not_another_grid(tmp_path: Path) -> None:
    config = _pair(tmp_path, OBLIQUE, np.round(OBLIQUE, 3))
    assert int((read_split(config, "train", 2)[0].labels == 1).sum()) == int(_labels().sum())


def test_a_label_map_stored_along_other_axes_lies_on_the_same_grid(tmp_path: Path) -> None:
    straight = read_split(_pair(tmp_path / "straight", OBLIQUE, OBLIQUE), "train", 2)[0]
    turned = nibabel.Nifti1Image(_labels(), OBLIQUE).as_reoriented(
        ornt_transform(io_orientation(OBLIQUE), axcodes2ornt(("S", "L", "P")))
    )
    config = _pair(tmp_path / "turned", OBLIQUE, OBLIQUE)
    nibabel.save(turned, tmp_path / "turned" / "labels" / "a.nii.gz")
    assert read_split(config, "train", 2)[0].labels.equal(straight.labels)


def test_a_label_map_is_brought_to_the_grid_of_its_image_when_told_to(tmp_path: Path) -> None:
    """A label map of half the voxels' edge and three voxels more on each side, whose content is the same."""
    straight = read_split(_pair(tmp_path / "straight", OBLIQUE, OBLIQUE), "train", 2)[0]
    fine = np.kron(np.pad(_labels(), 3), np.ones((2, 2, 2), np.uint8))
    corner = nibabel.affines.from_matvec(np.diag([0.5, 0.5, 0.5]), (-3.25, -3.25, -3.25))
    config = _pair(tmp_path / "fine", OBLIQUE, OBLIQUE)
    _save(tmp_path / "fine" / "labels" / "a.nii.gz", fine, OBLIQUE @ corner)
    with pytest.raises(DatasetInvalid, match="grid"):
        read_split(config, "train", 2)
    told = config.model_copy(update={"label_grid": "resampled"})
    assert read_split(told, "train", 2)[0].labels.equal(straight.labels)
    far = OBLIQUE.copy()
    far[:3, 3] += 1000
    _save(tmp_path / "fine" / "labels" / "a.nii.gz", fine, far)
    with pytest.raises(DatasetInvalid, match="none of its labels lies in the image"):
        read_split(told, "train", 2)


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    config = _pair(tmp_path, OBLIQUE, OBLIQUE)
    for folder in ("labels", "images"):
        (tmp_path / folder / "a.nii.gz").write_bytes(APPLE_DOUBLE)
        for spacing_from in ("affine", "pixdim"):
            with pytest.raises(DatasetInvalid, match=rf"{folder}/a\.nii\.gz: "):
                read_split(config.model_copy(update={"spacing_from": spacing_from}), "train", 2)


def test_a_label_beyond_the_classes_and_an_empty_split_are_said(tmp_path: Path) -> None:
    config = _pair(tmp_path, OBLIQUE, OBLIQUE)
    _save(tmp_path / "labels" / "a.nii.gz", _labels() * 5)
    with pytest.raises(DatasetInvalid, match=r"a holds label 5; architecture\.classes is 3, so labels are 0 to 2"):
        read_split(config, "train", 3)
    with pytest.raises(DatasetInvalid, match=r"'test' of .* has no scans"):
        read_split(config, "test", 3)


@pytest.mark.parametrize("device", ["cuda:99", "gpu0", "cuda:x"])
def test_a_device_that_is_not_there_is_said(config: TrainingConfig, device: str) -> None:
    with pytest.raises(EngineUnavailable, match=f"the device {device} cannot be used"):
        start_engine(config, device)


def _pair(root: Path, image_affine: np.ndarray, label_affine: np.ndarray) -> DatasetConfig:
    _save(root / "images" / "a.nii.gz", _image(), image_affine)
    _save(root / "labels" / "a.nii.gz", _labels(), label_affine)
    (root / "splits.json").write_text(json.dumps({"train": ["a"], "test": []}))
    return DatasetConfig(root=str(root))


def _save_case(root: Path, name: str, folders: tuple[str, str] = ("imagesTr", "labelsTr")) -> None:
    for folder, voxels in zip(folders, (_image(), _labels()), strict=True):
        _save(root / folder / f"{name}.nii.gz", voxels)


def _number_channels(root: Path) -> None:
    for name in NAMES:
        image = root / "imagesTr" / f"{name}.nii.gz"
        image.rename(image.with_name(f"{name}_0000.nii.gz"))


def _litter(root: Path) -> None:
    """What macOS and archives made on it leave beside the files."""
    for path in [path for path in root.rglob("*.nii.gz") if not path.name.startswith("._")]:
        path.with_name(f"._{path.name}").write_bytes(APPLE_DOUBLE)
        path.with_name(".DS_Store").write_bytes(b"Bud1")
        ghost = root / "__MACOSX" / path.relative_to(root)
        ghost.parent.mkdir(parents=True, exist_ok=True)
        ghost.write_bytes(APPLE_DOUBLE)


def _image() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(12, 10, 8)).astype(np.float32)


def _labels() -> np.ndarray:
    labels = np.zeros((12, 10, 8), np.uint8)
    labels[2:7, 3:6, 1:7] = 1
    return labels


def _save(path: Path, voxels: np.ndarray, affine: np.ndarray = OBLIQUE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(voxels, affine), path)
