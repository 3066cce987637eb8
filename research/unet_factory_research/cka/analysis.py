"""The whole analysis: run the generated networks on crops of real scans, compare their layers, write what came out."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from unet_factory.domain.errors import FactoryError
from unet_factory.model.checkpoint import Checkpoint, load_checkpoint
from unet_factory_research.cka.crops import Crop, draw_crops
from unet_factory_research.cka.figure import draw_figure
from unet_factory_research.cka.grams import grams_of
from unet_factory_research.cka.hsic import FEWEST_SAMPLES
from unet_factory_research.cka.layers import Layers, layers_of
from unet_factory_research.cka.maps import Maps, maps_of, rate_of_change
from unet_factory_research.cka.options import CkaOptions, spacing_text
from unet_factory_research.cka.regions import levels_of
from unet_factory_research.cka.summary import summarise
from unet_factory_training.config import TrainingConfig
from unet_factory_training.datasets import LabelledScan, find_subjects, read_scan

_LOG = logging.getLogger(__name__)

FIGURE, MAPS_FILE, SUMMARY_FILE, LAYERS_FILE = "cka", "maps.npz", "summary.json", "layers.csv"
PUBLISHED = (f"{FIGURE}.png", SUMMARY_FILE, LAYERS_FILE)


class CannotCompare(FactoryError):
    """The checkpoints' networks differ in more than their weights, or there are too few scans."""

    slug, title = "cannot-compare", "The networks cannot be compared"


def analyse(
    paths: Sequence[Path], config: TrainingConfig, options: CkaOptions, output: Path, device: str | None = None
) -> dict[str, Any]:
    """Write figure, maps, layers and summary of the checkpoints to ``output``; returns the summary. Levels, sizes and
    distances of layers are those of the network for the finest spacing.

    Raises:
        CannotCompare: the checkpoints are of different architectures or trained ranges, or the scans too few.
        CropTooLarge: a scan does not hold the crop.
        FactoryError: a checkpoint or a scan cannot be used.
    """
    checkpoints = _load(paths, device or ("cuda" if torch.cuda.is_available() else "cpu"))
    manifest = checkpoints[0].manifest
    spacings = options.spacings(manifest.grid)
    if len(spacings) < 2:
        raise CannotCompare(
            f"the trained range contains only one of the requested spacings: {spacing_text(spacings[0].mm)}"
        )
    scans = [read_scan(subject, config.dataset) for subject in find_subjects(config.dataset, options.split)]
    batches = batches_of(scans, options)
    _LOG.info("%d scans, %d crops in %d batches", len(scans), sum(map(len, batches)), len(batches))
    grams = [[grams_of(each, spacing, batches, options.estimator) for spacing in spacings] for each in checkpoints]
    maps, layers = maps_of(grams, reference=0), layers_of(manifest.architecture, spacings[0])
    names, along_mm = _names(paths), options.along_mm(spacings)
    summary = {
        "checkpoints": {name: each.digest for name, each in zip(names, checkpoints, strict=True)},
        "data": config.name,
        "options": options.model_dump(),
        "spacings_mm": [spacing.mm for spacing in spacings],
        "scans": len(scans),
        "batches": [len(batch) for batch in batches],
        "layers": len(layers.names),
        **summarise(maps, layers, along_mm, names),
    }
    output.mkdir(parents=True, exist_ok=True)
    draw_figure(maps, layers, [spacing_text(spacing.mm) for spacing in spacings], along_mm, output, FIGURE)
    _write(maps, layers, summary, names, along_mm, output)
    return summary


def batches_of(scans: Sequence[LabelledScan], options: CkaOptions) -> list[list[Crop]]:
    """Mini-batches of crops of different scans, as equal in size as they can be.

    Raises:
        CannotCompare: too few scans for one mini-batch.
        CropTooLarge: a scan does not hold the crop.
    """
    if len(scans) < FEWEST_SAMPLES:
        raise CannotCompare(
            f"CKA needs at least {FEWEST_SAMPLES} scans, but the {options.split} split has {len(scans)}"
        )
    rounds = draw_crops(scans, options.crop_mm, options.crops, options.seed)
    count = max(1, len(scans) // options.batch)
    parts = np.array_split(np.arange(len(scans)), count)
    return [[crops[index] for index in part] for crops in rounds for part in parts]


def _load(paths: Sequence[Path], device: str) -> list[Checkpoint]:
    checkpoints = [load_checkpoint(path, device) for path in paths]
    first = checkpoints[0].manifest
    for path, checkpoint in zip(paths, checkpoints, strict=True):
        if (checkpoint.manifest.architecture, checkpoint.manifest.grid) != (first.architecture, first.grid):
            raise CannotCompare(f"{path.name} and {paths[0].name} differ in architecture or trained range")
    return checkpoints


def _names(paths: Sequence[Path]) -> list[str]:
    """File names, numbered where they are alike."""
    stems = [path.stem for path in paths]
    return [
        stem if stems.count(stem) == 1 else f"{stem} {stems[:index].count(stem) + 1}"
        for index, stem in enumerate(stems)
    ]


def _write(
    maps: Maps, layers: Layers, summary: dict[str, Any], names: list[str], along_mm: list[float], output: Path
) -> None:
    np.savez_compressed(
        output / MAPS_FILE,
        within=maps.within.astype(np.float32),
        across=maps.across.astype(np.float32),
        between=maps.between.astype(np.float32),
        within_rate=np.stack([rate_of_change(own, along_mm).slope for own in maps.within]),
        across_rate=np.stack([rate_of_change(own, along_mm).slope for own in maps.across]),
        distances=layers.distances,
        same_size=layers.same_size,
        spacings_mm=np.array(summary["spacings_mm"]),
        checkpoints=np.array(names),
        layers=np.array(layers.names),
    )
    table = pd.DataFrame({"layer": layers.names, "level": levels_of(layers)})
    table[["ratio_r", "ratio_a", "ratio_s"]] = list(layers.ratios)
    table.to_csv(output / LAYERS_FILE, index_label="index")
    (output / SUMMARY_FILE).write_text(json.dumps(summary, indent=1, allow_nan=False) + "\n")
