"""A training run from its data set to its checkpoint: resumable, interruptible, on one process or many."""

import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path

import torch
from lightning_fabric import Fabric
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from torch.utils.data import DataLoader, Subset
from torch.utils.tensorboard import SummaryWriter

from unet_factory.domain.manifest import Manifest
from unet_factory.domain.spacing import SnappedSpacing
from unet_factory.model.checkpoint import save_checkpoint
from unet_factory_training.ahead import made_ahead
from unet_factory_training.batch import Batch
from unet_factory_training.batches import SpacingBatches
from unet_factory_training.config import TrainingConfig
from unet_factory_training.datasets import LabelledScan, Split, read_split
from unet_factory_training.evaluation import Score, draw_spacings, mean_dice, score_scans
from unet_factory_training.pace import Pace
from unet_factory_training.seen_scans import seen_in
from unet_factory_training.spent import Meter
from unet_factory_training.trainer import Trainer
from unet_factory_training.validation_record import record_validation

log = logging.getLogger(__name__)

STATE_FILE = "state.pt"

_SPLITS: tuple[Split, Split] = ("train", "validation")

_VALIDATION_DRAWS = 4
_RECORDED = {
    *("recipe", "optimisation", "sampling", "batch", "augmentation", "contrast"),
    *("distillation", "start_from", "initial_kernels", "seed"),
}
_STOPPED_STATUS = 128 + signal.SIGTERM


def train(config: TrainingConfig, run_dir: Path, fabric: Fabric) -> Path:
    """Train to the configured end, from the state in ``run_dir`` if there is one. Returns the checkpoint's path.

    SIGTERM saves the state after the step in hand, then exits with status 143.

    Raises:
        DatasetInvalid: the data set lacks what its description promises.
        TrainingDiverged: a loss or gradient is not finite; the message names the batch.
        StorageFull: no room for the state; the last one that was saved is still there.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    training, validation = (read_split(config.dataset, split, config.architecture.classes) for split in _SPLITS)
    trainer = Trainer(config, fabric)
    manifest = manifest_of(config).model_copy(update={"seen": seen_in([*training, *validation], config.labels)})
    trainer.resume(run_dir / STATE_FILE)
    log.info("training on %d scans from iteration %d", len(training), trainer.iteration)
    with _Reporter(trainer, manifest, validation, run_dir) as reporter, _stop_requests() as stop_requested:
        meter = Meter(fabric, trainer.spent)
        shares = reporter.pace.timed(_shares(training, trainer))
        for batches in takewhile(lambda _: trainer.share < 1, shares):
            loss = trainer.step(batches)
            trainer.spent = meter.count(batches)
            reporter.report(loss, batches)
            meter.start()
            if stop_requested():
                reporter.save()
                log.info("asked to stop: the state of iteration %d is saved", trainer.iteration)
                raise SystemExit(_STOPPED_STATUS)
    path = run_dir / f"{config.name}.safetensors"
    if fabric.is_global_zero:
        save_checkpoint(path, trainer.averaged_hypernetwork, manifest, heads=config.heads_dtype)
    fabric.barrier()
    return path


class _Reporter:
    """Progress, losses, states and validation; all by the first process alone."""

    def __init__(self, trainer: Trainer, manifest: Manifest, validation: list[LabelledScan], run_dir: Path) -> None:
        self.trainer, self.manifest, self.run_dir = trainer, manifest, run_dir
        self.validation = [scan.to(trainer.fabric.device) for scan in validation]
        self.leads = trainer.fabric.is_global_zero
        self.pace = Pace(trainer.iteration, trainer.share)
        self._losses: list[Tensor] = []

    def __enter__(self) -> "_Reporter":
        config = self.trainer.config
        self.writer = SummaryWriter(str(self.run_dir / "tensorboard")) if self.leads else None
        self.progress = _progress(disable=not self.leads)
        self.bar = self.progress.add_task(
            config.name, total=config.optimisation.iterations, completed=self.trainer.iteration, rate=0.0
        )
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()
        if self.writer is not None:
            self.writer.close()

    def report(self, loss: Tensor, batches: tuple[Batch, ...]) -> None:
        """After each step; nothing here waits for a GPU but every ``log_every`` iterations."""
        if self.writer is None:
            return
        config, iteration = self.trainer.config, self.trainer.iteration
        ended = self.trainer.share >= 1
        self._losses.append(loss)
        self.progress.advance(self.bar)
        self.writer.add_scalar("spacing/volume_mm3", math.prod(batches[0].spacing.mm), iteration)
        if iteration % config.log_every == 0 or ended:
            self._log_losses(self.writer)
        started = time.perf_counter()
        if iteration % config.save_every == 0 or ended:
            self.save()
        if iteration % config.validate_every == 0 or ended:
            self._record_validation(self.writer)
        self.pace.paused(time.perf_counter() - started)

    def _log_losses(self, writer: SummaryWriter) -> None:
        """Those since the last time, and the pace."""
        config, iteration = self.trainer.config, self.trainer.iteration
        self.trainer.check()
        losses, self._losses = torch.stack(self._losses).tolist(), []
        for at, loss in enumerate(losses, start=iteration - len(losses) + 1):
            writer.add_scalar("loss", loss, at)
        rate, mean = self.pace.report(iteration, self.trainer.share), sum(losses) / len(losses)
        writer.add_scalar("iterations_per_s", rate.iterations_per_s, iteration)
        log.info("iteration %d of %d: loss %.4f, %s", iteration, config.optimisation.iterations, mean, rate)
        self.progress.update(self.bar, description=f"{config.name} loss {mean:.3f}", rate=rate.iterations_per_s)

    def _record_validation(self, writer: SummaryWriter) -> None:
        iteration, started = self.trainer.iteration, time.perf_counter()
        dice = {name: mean_dice(scores) for name, scores in self._validate().items()}
        record_validation(self.run_dir, iteration, self.trainer.spent, dice)
        for name, value in dice.items():
            writer.add_scalar(f"dice/{name}", value, iteration)
            log.info("iteration %d: validation Dice %s %.4f", iteration, name, value)
        log.info("iteration %d: validated in %.1f s", iteration, time.perf_counter() - started)

    def save(self) -> None:
        if self.leads:
            self.trainer.save(self.run_dir / STATE_FILE)

    def _validate(self) -> dict[str, list[Score]]:
        """Every scan at its own spacing, at a coarse one (three quarters of the way to the far end of the range that
        scans are acquired in), and at a few drawn at random.
        """
        config, grid = self.trainer.config, self.trainer.config.acquired_grid
        coarse = grid.clamp(grid.snap([low + 0.75 * (high - low) for low, high in grid.range_mm]))
        sets: dict[str, Sequence[SnappedSpacing | None]] = {
            "native": [None],
            "coarse": [coarse],
            "drawn": draw_spacings(grid, _VALIDATION_DRAWS, config.seed),
        }
        network, precision = self.trainer.averaged_hypernetwork, config.optimisation.precision
        return {
            name: score_scans(network, self.manifest, self.validation, spacings, precision, config.contrast)
            for name, spacings in sets.items()
        }


def manifest_of(config: TrainingConfig) -> Manifest:
    """What the checkpoint will say of itself."""
    return Manifest(
        name=config.name,
        architecture=config.architecture,
        hypernetwork=config.hypernetwork,
        grid=config.grid,
        conditions=config.conditions,
        labels=config.labels,
        preprocessing=config.preprocessing,
        window=config.window,
        window_mm=config.window_mm,
        modality=config.modality,
        licence=config.licence,
        citation=config.citation,
        card=config.card,
        training=config.model_dump(mode="json", include=_RECORDED),
    )


def _shares(scans: list[LabelledScan], trainer: Trainer) -> Iterator[tuple[Batch, ...]]:
    """For each step left, the batches of this process; on a GPU they are made there, else by worker processes."""
    config, fabric = trainer.config, trainer.fabric
    per_step = config.optimisation.batches_per_step
    on_device = fabric.device.type != "cpu"
    batches = SpacingBatches([scan.to(fabric.device) for scan in scans] if on_device else scans, config)
    own = [
        item
        for item in range(trainer.iteration * per_step, len(batches))
        if item % fabric.world_size == fabric.global_rank
    ]
    workers = 0 if on_device else config.loader_workers
    loader = DataLoader(
        Subset(batches, own), batch_size=None, num_workers=workers, prefetch_factor=4 if workers else None
    )
    shares = zip(*[iter(loader)] * (per_step // fabric.world_size), strict=True)
    return made_ahead(shares, fabric.device) if on_device else shares


@contextmanager
def _stop_requests() -> Iterator[Callable[[], bool]]:
    """Whether SIGTERM has come since."""
    received = threading.Event()
    earlier = signal.signal(signal.SIGTERM, lambda *_: received.set())
    try:
        yield received.is_set
    finally:
        signal.signal(signal.SIGTERM, earlier)


def _progress(*, disable: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:.2f}/s"),
        TimeRemainingColumn(),
        disable=disable,
    )
