"""What a model's training and validation scans are like, for its manifest: later scans are judged by it."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from unet_factory.domain.errors import DatasetInvalid
from unet_factory.domain.manifest import Label
from unet_factory.domain.plausibility import AXES, Seen, Span
from unet_factory.model.checkpoint import replace_manifest
from unet_factory.platform.manifest_file import read_manifest
from unet_factory.volume import volumes_ml
from unet_factory_training.config import TrainingConfig
from unet_factory_training.datasets import LabelledScan, Split, find_subjects, read_scan
from unet_factory_training.model_card import fill_marked

MARGIN = 1.5
"""The least factor for what lies beyond the 0.5th and 99.5th percentiles: patients differ more than data sets."""

CARD_MARK = "seen"
_SPLITS: tuple[Split, Split] = ("train", "validation")
_OVER_SCANS = (0.5, 50.0, 99.5)
_OVER_VOXELS = (1.0, 50.0, 99.0)
_DECIMALS = 4


def seen_in(scans: Iterable[LabelledScan], labels: Sequence[Label], margin: float = MARGIN) -> Seen:
    """Volumes and extents of labels, fields of view and z-scored intensities of scans, which are looked at one by one.

    Raises:
        DatasetInvalid: there are no scans.
    """
    rows = [
        (_volumes(scan, labels), _field_of_view_mm(scan), _intensities(scan), _extents_mm(scan, labels))
        for scan in scans
    ]
    if not rows:
        raise DatasetInvalid("there are no scans of training and validation to describe")
    volumes, fields_mm, intensities, extents_mm = (np.array(column) for column in zip(*rows, strict=True))
    names = [label.name for label in labels if label.value != 0]
    r, a, s = (_span(column) for column in fields_mm.T)
    low, middle, high = (_span(column) for column in intensities.T)
    return Seen(
        scans=len(rows),
        margin=margin,
        volumes_ml={name: _span(column) for name, column in zip(names, volumes.T, strict=True)},
        extents_mm={
            name: found
            for name, column in zip(names, extents_mm.swapaxes(0, 1), strict=True)
            if (found := _box(column))
        },
        field_of_view_mm=(r, a, s),
        intensities=(low, middle, high),
    )


def describe(
    config: TrainingConfig, checkpoint: Path, target: Path, margin: float = MARGIN, card: Path | None = None
) -> Seen:
    """Write ``checkpoint`` to ``target`` with what its training and validation scans are like; its weights stay.

    ``card``: a model card to put the same into.

    Raises:
        CheckpointInvalid: it is no checkpoint.
        DatasetInvalid: as ``read_scan``, there are no scans, or the checkpoint has other labels than ``config``.
    """
    manifest = read_manifest(checkpoint)
    if manifest.labels != config.labels:
        raise DatasetInvalid(f"{checkpoint.name} has labels that differ from those of the configuration {config.name}")
    subjects = (subject for split in _SPLITS for subject in find_subjects(config.dataset, split))
    seen = seen_in((read_scan(subject, config.dataset) for subject in subjects), manifest.labels, margin)
    replace_manifest(checkpoint, manifest.model_copy(update={"seen": seen}), target)
    if card is not None:
        fill_marked(card, CARD_MARK, rows_of(seen))
    return seen


def rows_of(seen: Seen) -> list[list[str]]:
    """What was seen and what counts as plausible, as a table's rows; the first is its heading."""
    volumes = [_row(f"{name} (ml)", span, seen.expected(span)) for name, span in seen.volumes_ml.items()]
    extents = [
        _row(f"field of view {axis} (mm)", span, seen.expected(span))
        for axis, span in zip(AXES, seen.field_of_view_mm, strict=True)
    ]
    heading = [f"{seen.scans} scans", "low", "median", "high", f"plausible (margin {seen.margin:g})"]
    return [heading, *volumes, *extents]


def _row(what: str, span: Span, expected: tuple[float, float]) -> list[str]:
    lowest, highest = expected
    return [what, *(f"{value:.4g}" for value in (span.low, span.median, span.high)), f"{lowest:.4g} to {highest:.4g}"]


def _volumes(scan: LabelledScan, labels: Sequence[Label]) -> list[float]:
    """In ml, one for each label but the background."""
    return list(volumes_ml(scan.labels.numpy(), scan.spacing_ras_mm, labels).values())


def _extents_mm(scan: LabelledScan, labels: Sequence[Label]) -> list[list[float]]:
    """For each label but the background, from end to end along R, A and S; zeros where the scan does not show it."""
    found = ndimage.find_objects(scan.labels.numpy(), max_label=len(labels) - 1)
    return [
        [0.0] * 3 if box is None else [(s.stop - s.start) * mm for s, mm in zip(box, scan.spacing_ras_mm, strict=True)]
        for box in found
    ]


def _box(extents_mm: NDArray[np.float64]) -> tuple[Span, Span, Span] | None:
    """Of (scans, 3), those left out that do not show the label; None where none does."""
    shown = extents_mm[extents_mm[:, 0] > 0]
    if not len(shown):
        return None
    r, a, s = (_span(column) for column in shown.T)
    return r, a, s


def _field_of_view_mm(scan: LabelledScan) -> list[float]:
    return [voxels * mm for voxels, mm in zip(scan.image.shape, scan.spacing_ras_mm, strict=True)]


def _intensities(scan: LabelledScan) -> list[float]:
    voxels: list[float] = np.percentile(scan.image.to(torch.float32).numpy(), _OVER_VOXELS).tolist()
    return voxels


def _span(values: NDArray[np.float64]) -> Span:
    low, median, high = (round(float(value), _DECIMALS) for value in np.percentile(values, _OVER_SCANS))
    return Span(low=low, median=median, high=high)
