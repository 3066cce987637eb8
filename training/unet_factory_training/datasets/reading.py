"""From files to a scan in memory: RAS+, z-scored, labels as classes."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import nibabel
import torch
from nibabel.filebasedimages import ImageFileError
from torch import Tensor

from unet_factory.domain.errors import DatasetInvalid, FactoryError
from unet_factory.domain.spacing import SpacingMm, validate_spacing
from unet_factory.model.preprocessing import zscore
from unet_factory.volume import Volume, read_volume
from unet_factory_training.dataset_config import DatasetConfig
from unet_factory_training.datasets.label_grid import describe, nearest_on_grid, same_grid
from unet_factory_training.datasets.label_values import classes_of
from unet_factory_training.datasets.layouts import find_subjects, label_map_of
from unet_factory_training.datasets.subject import Split, Subject


@dataclass(frozen=True, eq=False)
class LabelledScan:
    """One labelled scan in memory, axes (R, A, S): ``image`` (r, a, s) float32, ``labels`` (r, a, s) uint8.

    ``conditions``: what is known of its acquisition besides the spacing, by the names of a model's conditions.
    """

    name: str
    image: Tensor
    labels: Tensor
    spacing_ras_mm: SpacingMm
    conditions: Mapping[str, float] = field(default_factory=dict)

    @cached_property
    def foreground(self) -> Tensor:
        """(labelled voxels, 3) int16: the indices of every voxel that is not background."""
        return torch.nonzero(self.labels).to(torch.int16)

    @cached_property
    def foreground_by_label(self) -> tuple[Tensor, ...]:
        """The same for each label that the scan has, as (voxels, 3) int16."""
        values = self.labels[tuple(self.foreground.long().T)]
        return tuple(self.foreground[values == value] for value in values.unique())

    def to(self, device: torch.device) -> "LabelledScan":
        """The same scan on a device."""
        return replace(self, image=self.image.to(device), labels=self.labels.to(device))


def read_split(config: DatasetConfig, split: Split, classes: int) -> list[LabelledScan]:
    """All scans of a split, for a model of so many ``classes``.

    Raises:
        DatasetInvalid: the split is empty, a scan has labels beyond the classes, or as in ``read_scan``.
    """
    subjects = find_subjects(config, split)
    if not subjects:
        raise DatasetInvalid(f"the split {split!r} of {config.root} has no scans; it needs at least one")
    return [_within(read_scan(subject, config), classes) for subject in subjects]


def read_scan(subject: Subject, config: DatasetConfig) -> LabelledScan:
    """Load image and labels, both reoriented to RAS+, the image z-scored.

    Raises:
        DatasetInvalid: a file cannot be read, its geometry cannot be trusted, the image has no contrast, the label map
            has values that are no classes, or lies on another grid than the image and ``config`` says nothing of that.
            The message names the file.
    """
    with _naming(subject.image):
        image = _read_ras(subject.image, config)
        normalised = zscore(torch.from_numpy(image.data))
    with _naming(subject.label):
        labels = _read_ras(subject.label, config)
        classes = classes_of(labels.data, label_map_of(config), subject.label.name)
        if not same_grid(image.header, labels.header):
            if config.label_grid == "same":
                raise DatasetInvalid(
                    f"its grid is not that of {subject.image.name}: {describe(labels.header)}; the image "
                    f"{describe(image.header)}. Mend the files, or set dataset.label_grid to resampled"
                )
            classes = nearest_on_grid(classes, labels.header, image.header)
    return LabelledScan(subject.name, normalised, torch.from_numpy(classes), image.spacing_ras_mm, subject.conditions)


def _within(scan: LabelledScan, classes: int) -> LabelledScan:
    if (largest := int(scan.labels.max())) >= classes:
        raise DatasetInvalid(
            f"{scan.name} holds label {largest}; architecture.classes is {classes}, so labels are 0 to {classes - 1}; "
            "raise it, or map the label in dataset.label_map"
        )
    return scan


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Errors say which file they are about."""
    try:
        yield
    except (FactoryError, OSError, ImageFileError) as error:
        raise DatasetInvalid(f"{path.parent.name}/{path.name}: {error}") from error


def _read_ras(path: Path, config: DatasetConfig) -> Volume:
    return read_volume(path, spacing_ras_mm=_pixdim_ras_mm(path) if config.spacing_from == "pixdim" else None)


def _pixdim_ras_mm(path: Path) -> SpacingMm:
    """``pixdim`` in the order (R, A, S). nibabel's own reorientation would take the spacing from the affine."""
    image = nibabel.Nifti1Image.from_filename(path)
    axes = nibabel.orientations.io_orientation(image.affine)[:, 0].astype(int).tolist()
    stored_mm = image.header.get_zooms()[:3]
    return validate_spacing([stored_mm[axes.index(axis)] for axis in range(3)])
