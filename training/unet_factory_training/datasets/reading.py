"""From files to a scan in memory: RAS+, z-scored, labels as classes."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import nibabel
import torch
from torch import Tensor

from unet_factory.domain.errors import DatasetInvalid
from unet_factory.domain.spacing import SpacingMm, validate_spacing
from unet_factory.model.normalisation import zscore
from unet_factory.volume import Volume, read_volume
from unet_factory_training.dataset_config import DatasetConfig
from unet_factory_training.datasets.label_values import classes_of
from unet_factory_training.datasets.layouts import label_map_of
from unet_factory_training.datasets.subject import Subject


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

    def to(self, device: torch.device) -> "LabelledScan":
        """The same scan on a device."""
        return replace(self, image=self.image.to(device), labels=self.labels.to(device))


def read_scan(subject: Subject, config: DatasetConfig) -> LabelledScan:
    """Load image and labels, both reoriented to RAS+, the image z-scored.

    Raises:
        DatasetInvalid: image and labels differ in shape, or the label map has values that are no classes.
        FactoryError: a file cannot be read, its geometry cannot be trusted, or the image has no contrast.
    """
    image, labels = _read_ras(subject.image, config), _read_ras(subject.label, config)
    if image.data.shape != labels.data.shape:
        raise DatasetInvalid(f"{subject.name}: image {image.data.shape} and labels {labels.data.shape} differ in shape")
    classes = torch.from_numpy(classes_of(labels.data, label_map_of(config), subject.label.name))
    conditions = subject.conditions
    return LabelledScan(subject.name, zscore(torch.from_numpy(image.data)), classes, image.spacing_ras_mm, conditions)


def _read_ras(path: Path, config: DatasetConfig) -> Volume:
    return read_volume(path, spacing_ras_mm=_pixdim_ras_mm(path) if config.spacing_from == "pixdim" else None)


def _pixdim_ras_mm(path: Path) -> SpacingMm:
    """``pixdim`` in the order (R, A, S). nibabel's own reorientation would take the spacing from the affine."""
    image = nibabel.Nifti1Image.from_filename(path)
    axes = nibabel.orientations.io_orientation(image.affine)[:, 0].astype(int).tolist()
    stored_mm = image.header.get_zooms()[:3]
    return validate_spacing([stored_mm[axes.index(axis)] for axis in range(3)])
