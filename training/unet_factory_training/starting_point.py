"""Where a new run starts: with fresh parameters, or with those of a finished checkpoint as far as they fit."""

import logging
import os
from pathlib import Path

import torch

from unet_factory.domain.errors import CheckpointInvalid
from unet_factory.domain.manifest import Parametrization
from unet_factory.domain.spacing import SnappedSpacing
from unet_factory.model.checkpoint import load_checkpoint
from unet_factory.model.hypernetwork import Hypernetwork
from unet_factory_training.config import TrainingConfig
from unet_factory_training.initial_kernels import start_with_resampled_kernels

log = logging.getLogger(__name__)

_LAST_LAYER = "head."


def initial_hypernetwork(config: TrainingConfig) -> Hypernetwork:
    """What ``config`` describes, with the parameters of ``start_from`` where that is given.

    - From a checkpoint of the same sizes, all parameters are taken.
    - From one that has the same weights for every spacing (``constant``, such as a finished AS), they become the base
      weights of a ``mip`` hypernetwork. Its heads are zero, so that it starts as that network at every spacing.
    - The last layer starts afresh where the number of classes differs.
    - With ``initial_kernels: resampled``, what is the same for every spacing so far is taken as the network for the
      finest spacing that it was trained for, or is to be trained for, and its kernels are resampled for the others.

    Raises:
        CheckpointInvalid: what to start from is no checkpoint, or differs in anything else, or its kernels, which are
            to be resampled, depend on the spacing already.
    """
    hypernetwork = Hypernetwork(config.architecture, config.hypernetwork, config.grid, config.conditions)
    start = hypernetwork
    if config.start_from is not None:
        start = load_checkpoint(Path(os.path.expandvars(config.start_from))).hypernetwork
        _start_from(start, hypernetwork, config)
    if config.initial_kernels == "resampled":
        start_with_resampled_kernels(hypernetwork, SnappedSpacing(*start.grid.min_um))
    return hypernetwork


def _start_from(start: Hypernetwork, hypernetwork: Hypernetwork, config: TrainingConfig) -> None:
    if config.initial_kernels == "resampled" and start.shape.parametrization is not Parametrization.CONSTANT:
        raise CheckpointInvalid(
            f"initial_kernels is resampled, but the kernels of {config.start_from} depend on the spacing already; "
            "start from a network that is the same for every spacing, or set initial_kernels to common"
        )
    try:
        fresh = _take_over(hypernetwork, start)
    except (KeyError, RuntimeError) as error:
        raise CheckpointInvalid(f"{config.start_from} does not fit the configuration: {error}") from error
    if fresh:
        log.info("%s has other classes: %s start afresh", config.start_from, ", ".join(fresh))


def _take_over(hypernetwork: Hypernetwork, start: Hypernetwork) -> tuple[str, ...]:
    """Copy the parameters of ``start``; returns the U-Net's tensors that it could not give.

    Raises:
        RuntimeError: more than the last layer differs.
    """
    shapes = hypernetwork.weight_shapes
    fresh = tuple(name for name, shape in shapes.items() if start.weight_shapes.get(name) != shape)
    if unknown := [name for name in fresh if not name.startswith(_LAST_LAYER)]:
        raise RuntimeError(f"the U-Nets differ in {', '.join(unknown)}")
    from_constant = start.shape.parametrization is Parametrization.CONSTANT
    into_heads = hypernetwork.shape.parametrization is Parametrization.MIP
    with torch.no_grad():
        if from_constant and into_heads:
            hypernetwork.heads.zero_()
        else:
            small = {name: tensor for name, tensor in start.state_dict().items() if name not in ("heads", "bias")}
            hypernetwork.load_state_dict({**hypernetwork.state_dict(), **small})
            _copy_rows(hypernetwork, start, "heads", fresh)
        _copy_rows(hypernetwork, start, "bias", fresh)
    return fresh


def _copy_rows(hypernetwork: Hypernetwork, start: Hypernetwork, parameter: str, fresh: tuple[str, ...]) -> None:
    """The rows of ``heads`` or ``bias`` that make the U-Net's tensors, but for those that start ``fresh``."""
    target, source = _by_tensor(hypernetwork, parameter), _by_tensor(start, parameter)
    for name in set(target) - set(fresh):
        if target[name].shape != source[name].shape:
            raise RuntimeError(f"{parameter} have {source[name].shape[1]} features instead of {target[name].shape[1]}")
        target[name].copy_(source[name])


def _by_tensor(hypernetwork: Hypernetwork, parameter: str) -> dict[str, torch.Tensor]:
    """Views of the rows (weights, *) of ``heads`` or ``bias``, by the U-Net's tensor that they make."""
    sizes = [shape.numel() for shape in hypernetwork.weight_shapes.values()]
    rows: torch.Tensor = getattr(hypernetwork, parameter).detach()
    return dict(zip(hypernetwork.weight_shapes, rows.split(sizes), strict=True))
