"""Terms of the loss beside the labels: a network's class probabilities are to agree with others for the same crops."""

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from unet_factory.domain.errors import CheckpointInvalid
from unet_factory.domain.spacing import SnappedSpacing, SpacingMm
from unet_factory.model.checkpoint import load_checkpoint, load_unet
from unet_factory.model.preprocessing import resample
from unet_factory.model.unet import UNet
from unet_factory_training.batch import Batch
from unet_factory_training.coarser_view import without_padding
from unet_factory_training.config import TrainingConfig

_LEAST_PROBABILITY = 1e-7


class Agreement:
    """What ``optimisation.consistency_weight`` and ``distillation`` add to the loss of a batch; nothing by default.

    Raises:
        CheckpointInvalid: the teacher is no network of one fixed spacing, or has other classes.
    """

    def __init__(self, config: TrainingConfig, device: torch.device) -> None:
        self.consistency_weight = config.optimisation.consistency_weight
        self.distillation = config.distillation
        self.teacher: Teacher | None = None
        if self.distillation is not None:
            self.teacher = Teacher(self.distillation.teacher, config.architecture.classes, device)

    def __call__(self, batch: Batch, logits: Sequence[Tensor]) -> Tensor:
        """(), from the logits (batch, classes, r, a, s) of each of the batch's views."""
        terms = [torch.zeros((), device=logits[0].device)]
        if self.consistency_weight and batch.coarser is not None:
            finer, coarser = logits[0].detach(), without_padding(logits[1], batch)
            found = divergence(coarser, batch.coarser.spacing.mm, finer, batch.spacing.mm)
            terms.append(self.consistency_weight * found)
        if self.teacher is not None and self.distillation is not None:
            for view, found in zip(batch.views, logits, strict=True):
                wanted = self.teacher.logits(view.images.to(found.device), view.spacing.mm)
                temperature, weight = self.distillation.temperature, self.distillation.weight / len(logits)
                terms.append(weight * divergence(found, view.spacing.mm, wanted, self.teacher.spacing.mm, temperature))
        return torch.stack(terms).sum()


def divergence(
    found: Tensor, found_mm: SpacingMm, wanted: Tensor, wanted_mm: SpacingMm, temperature: float = 1.0
) -> Tensor:
    """KL(wanted || found) of class probabilities, averaged over the voxels of the coarser grid, times temperature².

    Along each axis the finer probabilities are pooled to the coarser voxels by the slice profile of
    :func:`~unet_factory.model.preprocessing.resample`. The square keeps the gradient's size (Hinton et al., 2015).

    Args:
        found: logits (batch, classes, r, a, s) at ``found_mm``; the gradient flows to these.
        wanted: logits of the same fields of view at ``wanted_mm``.

    Returns:
        (), 0 where both agree, else positive.
    """
    r_mm, a_mm, s_mm = (max(pair) for pair in zip(found_mm, wanted_mm, strict=True))
    shared_mm = (r_mm, a_mm, s_mm)
    probabilities = resample((found / temperature).softmax(dim=1), found_mm, shared_mm)
    targets = resample((wanted / temperature).softmax(dim=1), wanted_mm, shared_mm)
    logarithms = probabilities.clamp(min=_LEAST_PROBABILITY).log()
    per_voxel = functional.kl_div(logarithms, targets, reduction="none").sum(dim=1)
    return temperature**2 * per_voxel.mean()


class Teacher:
    """A finished network of one fixed spacing, asked as such a network is in use: crops are brought to its spacing.

    Args:
        file: a standalone network, or a checkpoint whose trained range is a single spacing (FS); variables of the
            environment are expanded.

    Raises:
        CheckpointInvalid: it is neither, or has other classes.
    """

    def __init__(self, file: str, classes: int, device: torch.device) -> None:
        self.unet, self.spacing = _load(Path(os.path.expandvars(file)), device)
        if (own := self.unet.architecture.classes) != classes:
            raise CheckpointInvalid(f"the teacher {file} has {own} classes; the configuration has {classes}")

    @torch.no_grad()
    def logits(self, images: Tensor, spacing_mm: SpacingMm) -> Tensor:
        """For images (batch, 1, r, a, s) at ``spacing_mm``: (batch, classes, r', a', s') at the teacher's spacing.

        Images stay scaled as they are: z-scored at their own spacing, not at the teacher's.
        """
        at_its_spacing = resample(images.float(), spacing_mm, self.spacing.mm)
        r, a, s = at_its_spacing.shape[2:]
        missing = [-extent % divisor for extent, divisor in zip((r, a, s), self.unet.divisors, strict=True)]
        padding = [width for end in reversed(missing) for width in (0, end)]
        found: Tensor = self.unet(functional.pad(at_its_spacing, padding))
        return found[..., :r, :a, :s].float()


def _load(path: Path, device: torch.device) -> tuple[UNet, SnappedSpacing]:
    try:
        unet = load_unet(path, device)
    except CheckpointInvalid:
        checkpoint = load_checkpoint(path, device)
    else:
        assert unet.manifest is not None
        return unet, unet.manifest.spacing
    grid = checkpoint.manifest.grid
    if grid.min_um != grid.max_um:
        raise CheckpointInvalid(
            f"the teacher {path} was trained for a range of spacings; a teacher must be a standalone network, or a "
            "checkpoint that was trained at one spacing"
        )
    spacing = SnappedSpacing(*grid.min_um)
    return checkpoint.hypernetwork.unet(spacing), spacing
