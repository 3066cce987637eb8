"""The training loop: only the hypernetwork's parameters are optimised (paper, equation 1)."""

import logging
import math
import os
import time
from pathlib import Path
from typing import Any

import torch
from monai.losses import DiceCELoss
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Subset
from torch.utils.tensorboard import SummaryWriter

from unet_factory.manifest import Manifest, Strides
from unet_factory.model.checkpoint import save_checkpoint
from unet_factory.model.hypernetwork import Hypernetwork
from unet_factory.model.unet import UNet, empty_unet
from unet_factory.spacing import SnappedSpacing
from unet_factory_training.batches import Batch, SpacingBatches
from unet_factory_training.config import OptimisationConfig, TrainingConfig
from unet_factory_training.datasets import Scan, find_subjects, read_scan
from unet_factory_training.evaluation import Score, draw_spacings, mean_dice, score_native, score_scans
from unet_factory_training.validation_record import record_validation

log = logging.getLogger(__name__)

_VALIDATION_DRAWS = 4


def train(config: TrainingConfig, run_dir: Path, device: torch.device) -> Path:
    """Train to the configured iteration, from the state in ``run_dir`` if there is one. Returns the checkpoint's path.

    Raises:
        DatasetInvalid: the data set lacks what its description promises.
        FloatingPointError: the loss is not finite; the message names the batch.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    training, validation = (
        [read_scan(subject, config.dataset) for subject in find_subjects(config.dataset, split)]
        for split in ("train", "validation")
    )
    trainer = Trainer(config, device)
    trainer.resume(run_dir / STATE_FILE)
    log.info("training on %d scans from iteration %d", len(training), trainer.iteration)
    with SummaryWriter(str(run_dir / "tensorboard")) as writer, _progress() as progress:
        bar = progress.add_task(config.name, total=config.optimisation.iterations, completed=trainer.iteration)
        for batch in _loader(training, config, trainer.iteration):
            loss = trainer.step(batch)
            progress.update(bar, advance=1, description=f"{config.name} loss {loss:.3f}")
            _report(trainer, loss, batch, validation, writer, run_dir)
    path = run_dir / f"{config.name}.safetensors"
    save_checkpoint(path, trainer.averaged_hypernetwork, trainer.manifest, heads=config.heads_dtype)
    return path


STATE_FILE = "state.pt"


class Trainer:
    """Everything that changes while training; its state dict is what a resumed run needs."""

    def __init__(self, config: TrainingConfig, device: torch.device) -> None:
        torch.manual_seed(config.seed)
        self.config, self.device, self.iteration = config, device, 0
        self._unets: dict[Strides, UNet] = {}
        self.hypernetwork = Hypernetwork(config.architecture, config.hypernetwork, config.grid).to(device)
        self.average = AveragedModel(
            self.hypernetwork, multi_avg_fn=get_ema_multi_avg_fn(config.optimisation.ema_decay)
        )
        self.optimiser = torch.optim.Adam(
            self.hypernetwork.parameters(), lr=config.optimisation.learning_rate, fused=True
        )
        self.loss = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=True)
        self.manifest = manifest_of(config)

    def step(self, batch: Batch) -> float:
        """One optimisation step; returns the loss."""
        learning_rate = learning_rate_at(self.iteration, self.config.optimisation)
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate
        loss = self._loss_of(batch)
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"loss is {loss.item()} at iteration {self.iteration}, spacing {batch.spacing} mm, scans {batch.names}"
            )
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if (clip_norm := self.config.optimisation.clip_norm) is not None:
            nn.utils.clip_grad_norm_(self.hypernetwork.parameters(), clip_norm)
        self.optimiser.step()
        self.average.update_parameters(self.hypernetwork)
        self.iteration += 1
        return loss.item()

    @property
    def averaged_hypernetwork(self) -> Hypernetwork:
        averaged = self.average.module
        assert isinstance(averaged, Hypernetwork)
        return averaged

    def save(self, path: Path) -> None:
        """Atomically: a kill while saving leaves the last good state."""
        partial = path.with_suffix(".partial")
        state = {
            "iteration": self.iteration,
            "hypernetwork": self.hypernetwork.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }
        try:
            with partial.open("wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    def resume(self, path: Path) -> None:
        """Continue from a saved state, if there is one; nothing but tensors and numbers is unpickled."""
        if not path.exists():
            return
        state: dict[str, Any] = torch.load(path, map_location=self.device, weights_only=True)
        self.iteration = state["iteration"]
        self.hypernetwork.load_state_dict(state["hypernetwork"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])

    def _unet(self, spacing: SnappedSpacing) -> UNet:
        """The topology for a spacing; few differ."""
        strides = self.config.architecture.strides(spacing)
        if strides not in self._unets:
            self._unets[strides] = empty_unet(self.config.architecture, spacing)
        return self._unets[strides]

    def _loss_of(self, batch: Batch) -> Tensor:
        images, labels = batch.images.to(self.device), batch.labels.to(self.device)
        weights = self.hypernetwork(torch.tensor(batch.spacing.mm, device=self.device))
        autocast = self.config.optimisation.precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=autocast):
            logits = functional_call(self._unet(batch.spacing), weights, (images,), strict=True)
        loss: Tensor = self.loss(logits.float(), labels)
        return loss


def learning_rate_at(iteration: int, config: OptimisationConfig) -> float:
    """Linear warm-up, then half a cosine to zero at the last iteration, or no change at all."""
    warm = min(1.0, (iteration + 1) / max(1, config.warmup))
    if config.schedule == "constant":
        return config.learning_rate * warm
    return config.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * iteration / config.iterations))


def manifest_of(config: TrainingConfig) -> Manifest:
    """What the checkpoint will say of itself."""
    return Manifest(
        name=config.name,
        architecture=config.architecture,
        hypernetwork=config.hypernetwork,
        grid=config.grid,
        labels=config.labels,
        preprocessing=config.preprocessing,
        window=config.window,
        window_mm=config.window_mm,
        modality=config.modality,
        licence=config.licence,
        citation=config.citation,
        card=config.card,
        training=config.model_dump(mode="json", include={"optimisation", "sampling", "batch", "augmentation", "seed"}),
    )


def _report(
    trainer: Trainer, loss: float, batch: Batch, validation: list[Scan], writer: SummaryWriter, run_dir: Path
) -> None:
    config, iteration = trainer.config, trainer.iteration
    writer.add_scalar("loss", loss, iteration)
    writer.add_scalar("spacing/volume_mm3", math.prod(batch.spacing.mm), iteration)
    if iteration % config.save_every == 0 or iteration == config.optimisation.iterations:
        trainer.save(run_dir / STATE_FILE)
    if iteration % config.validate_every == 0 or iteration == config.optimisation.iterations:
        started = time.perf_counter()
        dice = {name: mean_dice(scores) for name, scores in _validate(trainer, validation).items()}
        record_validation(run_dir, iteration, dice)
        for name, value in dice.items():
            writer.add_scalar(f"dice/{name}", value, iteration)
            log.info("iteration %d: validation Dice %s %.4f", iteration, name, value)
        log.info("iteration %d: loss %.4f, validated in %.1f s", iteration, loss, time.perf_counter() - started)


def _validate(trainer: Trainer, scans: list[Scan]) -> dict[str, list[Score]]:
    """Every scan at its own spacing, at a coarse one (three quarters of the way to the trained range's far end), and
    at a few drawn at random.
    """
    grid, network = trainer.config.grid, (trainer.averaged_hypernetwork, trainer.manifest)
    coarse = grid.clamp(grid.snap([low + 0.75 * (high - low) for low, high in grid.range_mm]))
    return {
        "native": score_native(*network, scans),
        "coarse": score_scans(*network, scans, [coarse]),
        "drawn": score_scans(*network, scans, draw_spacings(grid, _VALIDATION_DRAWS, trainer.config.seed)),
    }


def _loader(scans: list[Scan], config: TrainingConfig, start: int) -> DataLoader[Batch]:
    batches = SpacingBatches(scans, config)
    return DataLoader(
        Subset(batches, range(start, len(batches))),
        batch_size=None,
        num_workers=config.loader_workers,
        prefetch_factor=4 if config.loader_workers else None,
        persistent_workers=False,
    )


def _progress() -> Progress:
    return Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
