"""Everything that changes while training, on however many processes (paper, equation 1)."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from monai.losses import DiceCELoss
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from unet_factory.domain.errors import FactoryError
from unet_factory.model.hypernetwork import Hypernetwork
from unet_factory.platform.atomic_files import PARTIAL_SUFFIX, storage_errors, whole_file
from unet_factory_training.agreement import Agreement
from unet_factory_training.batch import Batch
from unet_factory_training.config import OptimisationConfig, TrainingConfig
from unet_factory_training.network import SpacingConditionedUNet, labels_by_level, level_weights
from unet_factory_training.spent import Spent
from unet_factory_training.starting_point import initial_hypernetwork


class TrainingDiverged(FactoryError, FloatingPointError):
    """A loss or gradient is not finite: to go on would only spoil the parameters."""

    slug, title = "training-diverged", "The training has diverged"


class Trainer:
    """The hypernetwork's parameters are optimised, and with them the outputs that deep supervision adds for the run.
    The state that is saved is what a resumed run needs.

    A step consumes ``batches_per_step`` batches, shared out between the processes of ``fabric``: the gradients are the
    same on one process as on many.
    """

    def __init__(self, config: TrainingConfig, fabric: Fabric) -> None:
        torch.manual_seed(config.seed)
        optimisation = config.optimisation
        self.config, self.fabric, self.iteration, self.spent = config, fabric, 0, Spent()
        self.hypernetwork = initial_hypernetwork(config).to(fabric.device)
        self.average: AveragedModel | None = None
        if optimisation.ema_decay:
            self.average = AveragedModel(self.hypernetwork, multi_avg_fn=get_ema_multi_avg_fn(optimisation.ema_decay))
        network = SpacingConditionedUNet(
            self.hypernetwork, optimisation.execution, deep_supervision=optimisation.deep_supervision
        ).to(fabric.device)
        self.outputs, self.fused = network.outputs, _fused_optimiser(network.parameters(), optimisation)
        self.network, self.optimiser = fabric.setup(network, self.fused)
        self.loss = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=True)
        self.agreement = Agreement(config, fabric.device)
        self.check_every = 1 if fabric.device.type == "cpu" else config.log_every
        self._unchecked: list[_Unchecked] = []

    def step(self, batches: Sequence[Batch]) -> Tensor:
        """One optimisation step from this process's share of its batches; returns their mean loss, (), on the device.

        A step whose loss or gradient is not finite changes nothing. On a CPU it raises at once; on a GPU, where asking
        would keep the host waiting for the device, :meth:`check` tells, here after every ``log_every`` iterations.

        Raises:
            TrainingDiverged: as :meth:`check`.
        """
        learning_rate = learning_rate_at(self.iteration, self.config.optimisation, self.share)
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate
        self.optimiser.zero_grad(set_to_none=True)
        last = len(batches) - 1
        losses = torch.stack(
            [self._accumulate(batch, len(batches), last=number == last) for number, batch in enumerate(batches)]
        )
        norm = self._clipped_norm()
        self._unchecked.append(_Unchecked(self.iteration, losses, norm, [_described(batch) for batch in batches]))
        if (self.iteration + 1) % self.check_every == 0:
            self.check()
        broken = ~(torch.isfinite(losses).all() & torch.isfinite(norm))
        self._change_parameters(learning_rate, broken)
        self.iteration += 1
        return losses.mean()

    def check(self) -> None:
        """Wait for the steps so far.

        Raises:
            TrainingDiverged: the loss or its gradient was not finite in one of them; the message names its batches.
                That step has changed no parameter.
        """
        unchecked, self._unchecked = self._unchecked, []
        for step in unchecked:
            step.check()

    @property
    def share(self) -> float:
        """How much of what the run may cost is used up; at 1 it has ended."""
        return self.spent.share(self.iteration, self.config.optimisation)

    @property
    def averaged_hypernetwork(self) -> Hypernetwork:
        """The exponential average of the parameters, or the parameters where nothing is averaged."""
        if self.average is None:
            return self.hypernetwork
        averaged = self.average.module
        assert isinstance(averaged, Hypernetwork)
        return averaged

    def save(self, path: Path) -> None:
        """Atomically: a kill or a full disk while saving leaves the last good state.

        Raises:
            StorageFull: there is no room; the message says what is still there.
            TrainingDiverged: as :meth:`check`; nothing is saved.
        """
        self.check()
        state = {
            "iteration": self.iteration,
            "spent": asdict(self.spent),
            "hypernetwork": self.hypernetwork.state_dict(),
            "outputs": self.outputs.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }
        kept = f"{path} still holds the last state that was saved" if path.exists() else "no state was saved yet"
        with (
            storage_errors(f"no space to save the state of iteration {self.iteration}; {kept}"),
            whole_file(path, path.with_suffix(PARTIAL_SUFFIX)) as partial,
            partial.open("wb") as file,
        ):
            torch.save(state, file)

    def resume(self, path: Path) -> None:
        """Continue from a saved state, if there is one; nothing but tensors and numbers is unpickled."""
        if not path.exists():
            return
        state: dict[str, Any] = torch.load(path, map_location=self.fabric.device, weights_only=True)
        self.iteration, self.spent = state["iteration"], Spent(**state["spent"])
        self.hypernetwork.load_state_dict(state["hypernetwork"])
        self.outputs.load_state_dict(state["outputs"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])

    def _accumulate(self, batch: Batch, share: int, *, last: bool) -> Tensor:
        """Add a batch's part of the gradients, and return its loss; processes meet at the last one."""
        with self.fabric.no_backward_sync(self.network, enabled=not last):
            loss = self._loss_of(batch)
            self.fabric.backward(loss / share)
        return loss.detach()

    def _clipped_norm(self) -> Tensor:
        """The gradient's norm before it was clipped; 0 where nothing is clipped."""
        clip_norm = self.config.optimisation.clip_norm
        norm = None
        if clip_norm is not None:
            norm = self.fabric.clip_gradients(
                self.network, self.optimiser, max_norm=clip_norm, error_if_nonfinite=False
            )
        return torch.zeros((), device=self.fabric.device) if norm is None else norm

    def _change_parameters(self, learning_rate: float, broken: Tensor) -> None:
        """
        Args:
            broken: (), whether this step must change nothing.
        """
        decay, heads = learning_rate * self.config.optimisation.heads_decay, self.hypernetwork.heads
        self.fused.found_inf = broken.float()  # type: ignore[attr-defined]  # as torch.amp.GradScaler tells a fused optimiser
        self.optimiser.step()
        if decay:
            with torch.no_grad():
                heads.mul_(torch.where(broken, 1.0, 1 - decay))
        if self.average is not None:
            self.average.update_parameters(self.hypernetwork)

    def _loss_of(self, batch: Batch) -> Tensor:
        """The mean over the batch's views, and what is asked of the network besides the labels."""
        logits, losses = zip(*(self._of_labels(view) for view in batch.views), strict=True)
        return torch.stack(losses).mean() + self.agreement(batch, logits)

    def _of_labels(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The logits of one view's images, and their loss by its labels."""
        images, labels = batch.images.to(self.fabric.device), batch.labels.to(self.fabric.device)
        found: tuple[Tensor, ...] = self.network(images, batch.spacing, batch.conditions)
        wanted = labels_by_level(labels, self.config.architecture.strides(batch.spacing), len(found))
        losses = [self.loss(logits.float(), level) for logits, level in zip(found, wanted, strict=True)]
        weights = level_weights(len(losses))
        loss = torch.stack([weight * loss for weight, loss in zip(weights, losses, strict=True)]).sum()
        return found[0].float(), loss


@dataclass(frozen=True)
class _Unchecked:
    """A step that the device may not have finished: ``losses`` (batches,), ``norm`` (), and its batches in words."""

    iteration: int
    losses: Tensor
    norm: Tensor
    batches: list[str]

    def check(self) -> None:
        for loss, batch in zip(self.losses.tolist(), self.batches, strict=True):
            if not math.isfinite(loss):
                raise TrainingDiverged(f"the loss is {loss} at iteration {self.iteration}: {batch}")
        if not math.isfinite(norm := float(self.norm)):
            raise TrainingDiverged(f"the gradient is {norm} at iteration {self.iteration}: {'; '.join(self.batches)}")


def _described(batch: Batch) -> str:
    conditions = "".join(f"condition {value:g}, " for value in batch.conditions)
    spacings = " and ".join(str(view.spacing) for view in batch.views)
    return f"spacing {spacings} mm, {conditions}scans {', '.join(batch.names)}"


def _fused_optimiser(parameters: Iterable[nn.Parameter], config: OptimisationConfig) -> torch.optim.Optimizer:
    """One that can be told on the device, by ``found_inf``, that a step must change nothing."""
    if config.optimiser == "adam":
        return torch.optim.Adam(parameters, config.learning_rate, weight_decay=config.weight_decay, fused=True)
    return torch.optim.SGD(
        parameters, config.learning_rate, config.momentum, weight_decay=config.weight_decay, nesterov=True, fused=True
    )


def learning_rate_at(iteration: int, config: OptimisationConfig, share: float | None = None) -> float:
    """Linear warm-up, then half a cosine, or a polynomial, to zero where the ``share`` of the run that is over, by
    default of its iterations, is 1; or no change at all.
    """
    warm = min(1.0, (iteration + 1) / max(1, config.warmup))
    if config.schedule == "constant":
        return config.learning_rate * warm
    over = min(1.0, iteration / config.iterations if share is None else share)
    if config.schedule == "polynomial":
        return config.learning_rate * warm * math.pow(1 - over, _POWER)
    return config.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * over))


_POWER = 0.9
"""Of the polynomial: that of DeepLab and nnU-Net."""
