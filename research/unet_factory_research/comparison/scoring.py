"""Every arm on every scan at every spacing, one row per label; what was scored once is not scored again.

The results of an arm on a scan lie in a file of their own, named by all that they depend on.
"""

import hashlib
import json
import logging
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from unet_factory.domain.precision import Precision
from unet_factory.domain.spacing import OutsidePolicy, SpacingMm, SpacingPlan, plan_spacing
from unet_factory.model.checkpoint import Checkpoint, load_checkpoint
from unet_factory.platform.atomic_files import whole_file
from unet_factory_research.comparison.acquisitions import Acquisition, acquisitions_of
from unet_factory_research.comparison.config import Comparison, slug
from unet_factory_research.comparison.measures import LabelMeasures, measure_labels
from unet_factory_research.comparison.runs import Run
from unet_factory_training.config import TrainingConfig
from unet_factory_training.contrast import INVERSION_TIME
from unet_factory_training.datasets import LabelledScan, find_subjects, read_scan
from unet_factory_training.evaluation import Simulated, segment_simulated, simulate
from unet_factory_training.loop import manifest_of

log = logging.getLogger(__name__)

ROWS_VERSION = 2  # counts changes of what a row means


@dataclass(frozen=True, eq=False)
class Contender:
    """An arm's trained network and how it is used."""

    arm: str
    seed: int
    path: Path
    checkpoint: Checkpoint
    outside: OutsidePolicy
    working_mm: SpacingMm | None = None

    @cached_property
    def network(self) -> str:
        """Equal for contenders that are the same network, whatever their policies."""
        known = self.checkpoint.manifest.model_dump_json(exclude={"name", "metrics", "training"})
        return hashlib.sha256(f"{self.checkpoint.digest} {known}".encode()).hexdigest()

    def plan(self, spacing_mm: SpacingMm) -> SpacingPlan:
        return plan_spacing(spacing_mm, self.checkpoint.manifest.grid, self.outside, self.working_mm)


@dataclass(frozen=True)
class ScanScore:
    measures: list[LabelMeasures]
    seconds: float
    peak_bytes: int | None


def contenders_of(
    comparison: Comparison, runs: Sequence[Run], given: Mapping[str, Path], device: torch.device
) -> list[Contender]:
    """Every arm whose checkpoint is given or trained, for every seed; the others are told in the log.

    Raises:
        CheckpointInvalid: a file is no checkpoint.
    """
    trained = {(run.arm, run.seed): run.checkpoint for run in runs}
    found = []
    for seed in comparison.seeds:
        for name, arm in comparison.arms.items():
            path = given.get(name) or given.get(arm.source or name) or trained[arm.source or name, seed]
            if not path.exists():
                log.warning("%s, seed %d: no checkpoint yet", name, seed)
                continue
            manifest = manifest_of(comparison.training_config(name, seed))
            checkpoint = replace(load_checkpoint(path, device), manifest=manifest)
            found.append(Contender(name, seed, path, checkpoint, arm.outside, arm.working_mm))
    return found


def score_all(
    comparison: Comparison, contenders: Sequence[Contender], folder: Path, wanted: Collection[str] = ()
) -> pd.DataFrame:
    """Score what was not scored before, of all contenders or of the arms ``wanted``; returns all rows that there are.

    Columns: arm, seed, scan, subject, region, spacing_r_mm, spacing_a_mm, spacing_s_mm, inversion_time_ms, label, dice,
    hd95_mm, assd_mm, volume_bias, seconds, peak_bytes. Scored at the working resolution: on the label map at the
    simulated spacing. ``peak_bytes`` is the device's, and empty on a CPU.
    """
    configs = {seed: comparison.training_config(comparison.reference, seed) for seed in comparison.seeds}
    parts = []
    for config in _of_different_scans(list(configs.values())):
        own = [contender for contender in contenders if configs[contender.seed].dataset == config.dataset]
        parts += _score_subjects(comparison, config, own, folder, wanted)
    return pd.concat(parts, ignore_index=True)[COLUMNS] if parts else pd.DataFrame(columns=COLUMNS)


def _of_different_scans(configs: Sequence[TrainingConfig]) -> list[TrainingConfig]:
    """One of all whose scans are the same: a single one, but for the folds of a cross-validation."""
    datasets = [config.dataset for config in configs]
    return [config for number, config in enumerate(configs) if config.dataset not in datasets[:number]]


def _score_subjects(
    comparison: Comparison,
    config: TrainingConfig,
    contenders: Sequence[Contender],
    folder: Path,
    wanted: Collection[str],
) -> list[pd.DataFrame]:
    subjects = [
        subject
        for split in comparison.splits
        for subject in find_subjects(config.dataset, split)[: comparison.max_scans]
    ]
    parts = []
    for number, subject in enumerate(subjects):
        scan = read_scan(subject, config.dataset)
        acquisitions = acquisitions_of(comparison, scan, number, config)
        files = {
            contender: folder / _file_of(contender, scan, acquisitions, comparison.precision, config)
            for contender in contenders
        }
        missing = [c for c, path in files.items() if not path.exists() and (not wanted or c.arm in wanted)]
        started = time.perf_counter()
        for contender, rows in _score_scan(missing, scan, acquisitions, comparison.precision).items():
            table = pd.DataFrame(rows).assign(subject=subject.patient or subject.name)
            files[contender].parent.mkdir(parents=True, exist_ok=True)
            with whole_file(files[contender]) as partial:
                table.to_csv(partial, index=False, float_format="%.6g")
        if missing:
            log.info("scan %d of %d: %.0f s", number + 1, len(subjects), time.perf_counter() - started)
        parts += [pd.read_csv(path).assign(arm=c.arm, seed=c.seed) for c, path in files.items() if path.exists()]
    return parts


SPACING_COLUMNS = ["spacing_r_mm", "spacing_a_mm", "spacing_s_mm"]
MEASURES = ["dice", "hd95_mm", "assd_mm", "volume_bias"]
_CASE_COLUMNS = ["arm", "seed", "scan", "subject", "region", *SPACING_COLUMNS, INVERSION_TIME]
COLUMNS = [*_CASE_COLUMNS, "label", *MEASURES, "seconds", "peak_bytes"]


def _file_of(
    contender: Contender,
    scan: LabelledScan,
    acquisitions: Mapping[Acquisition, list[str]],
    precision: Precision,
    config: TrainingConfig,
) -> Path:
    """A name that changes with anything that the scores of a contender on a scan depend on."""
    known = [
        ROWS_VERSION,
        contender.network,
        contender.outside,
        contender.working_mm,
        config.dataset.model_dump(exclude={"root"}, mode="json"),
        list(acquisitions.items()),
        precision,
    ]
    digest = hashlib.sha256(json.dumps(known).encode()).hexdigest()
    return Path(f"{slug(contender.arm)}-seed{contender.seed}") / f"{scan.name}-{digest[:12]}.csv"


def _score_scan(
    contenders: Sequence[Contender],
    scan: LabelledScan,
    acquisitions: Mapping[Acquisition, list[str]],
    precision: Precision,
) -> dict[Contender, list[dict[str, Any]]]:
    """A scan is simulated once for all contenders, and a network is asked once where policies make no difference."""
    rows: dict[Contender, list[dict[str, Any]]] = {contender: [] for contender in contenders}
    for at, regions in acquisitions.items() if contenders else ():
        classes = contenders[0].checkpoint.manifest.architecture.classes
        simulated = simulate(at.contrast_of(scan), at.spacing_mm, classes)
        outcomes: dict[tuple[str, SpacingPlan], ScanScore] = {}
        for contender in contenders:
            asked = contender.network, contender.plan(at.spacing_mm)
            if asked not in outcomes:
                outcomes[asked] = _outcome(contender, simulated, precision)
            rows[contender] += _rows(scan, at, regions, outcomes[asked])
    return rows


def _outcome(contender: Contender, simulated: Simulated, precision: Precision) -> ScanScore:
    predicted, seconds, peak_bytes = _timed_segmentation(contender, simulated, precision)
    classes = contender.checkpoint.manifest.architecture.classes
    return ScanScore(measure_labels(predicted, simulated.labels, classes, simulated.spacing_mm), seconds, peak_bytes)


def _timed_segmentation(
    contender: Contender, simulated: Simulated, precision: Precision
) -> tuple[Tensor, float, int | None]:
    checkpoint = contender.checkpoint
    device = checkpoint.hypernetwork.bias.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    started = time.perf_counter()
    predicted = segment_simulated(
        checkpoint.hypernetwork, checkpoint.manifest, simulated, contender.outside, precision, contender.working_mm
    )
    seconds = time.perf_counter() - started
    return predicted, seconds, torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


def _rows(scan: LabelledScan, at: Acquisition, regions: Sequence[str], outcome: ScanScore) -> list[dict[str, Any]]:
    spacing = dict(zip(SPACING_COLUMNS, at.spacing_mm, strict=True))
    cost = {"seconds": outcome.seconds, "peak_bytes": outcome.peak_bytes}
    return [
        {
            "scan": scan.name,
            "region": region,
            **spacing,
            INVERSION_TIME: at.inversion_time_ms,
            **asdict(measures),
            **cost,
        }
        for region in regions
        for measures in outcome.measures
    ]
