"""The mean of several checkpoints' weights: one network at the price of one.

It works for checkpoints of which one was trained on from another, as their weights stay close enough for the mean to be
a network too (Wortsman et al., *Model soups*, ICML 2022); of unrelated trainings it is noise.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load

from unet_factory.domain.errors import CheckpointInvalid
from unet_factory.model.checkpoint import load_checkpoint, write_checkpoint
from unet_factory_training.ensemble import check_alike


def write_mean(paths: Sequence[Path], target: Path) -> str:
    """Write a checkpoint with the mean of all weights of the checkpoints ``paths``, each counting as much. Returns its
    digest.

    It is used as the first of them says and stored in the same types; its record of training names them all by digest.
    Figures of one would be wrong for the mean, so there are none until the file is evaluated.

    Raises:
        CheckpointInvalid: fewer than two; one is no checkpoint or an ensemble; they were not made for the same task, or
            their hypernetworks differ.
    """
    if len(paths) < 2:
        raise CheckpointInvalid(f"a mean needs two checkpoints or more; {len(paths)} was given")
    checkpoints = [load_checkpoint(path) for path in paths]
    manifests = [checkpoint.manifest for checkpoint in checkpoints]
    if ensembles := [path.name for path, manifest in zip(paths, manifests, strict=True) if manifest.members]:
        raise CheckpointInvalid(f"{', '.join(ensembles)}: an ensemble has no mean; give single checkpoints")
    check_alike(manifests, "averaged", also=("hypernetwork",))
    first, *others = [load(path.read_bytes()) for path in paths]
    tensors = {
        name: torch.stack([tensor.double(), *(other[name].double() for other in others)]).mean(dim=0).to(tensor.dtype)
        for name, tensor in first.items()
    }
    training = manifests[0].training | {"mean_of": [checkpoint.digest for checkpoint in checkpoints]}
    changes = {"training": training, "metrics": (), "dice_by_spacing": None}
    return write_checkpoint(target, tensors, manifests[0].model_copy(update=changes))
