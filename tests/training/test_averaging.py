"""The mean of checkpoints' weights."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.fixtures.tiny_model import TINY, TinyEnsemble
from unet_factory.domain.errors import CheckpointInvalid
from unet_factory.domain.manifest import HypernetworkShape
from unet_factory.model.checkpoint import load_checkpoint, save_checkpoint
from unet_factory.model.hypernetwork import Hypernetwork
from unet_factory_training.averaging import write_mean


def test_every_weight_is_the_mean_and_the_record_names_the_checkpoints(
    tiny_ensemble: TinyEnsemble, tmp_path: Path
) -> None:
    members, target = tiny_ensemble.members, tmp_path / "mean.safetensors"
    write_mean(members, target)
    stored = [load_file(path) for path in members]
    for name, tensor in load_file(target).items():
        torch.testing.assert_close(len(stored) * tensor, sum(tensors[name] for tensors in stored), rtol=1e-6, atol=1e-6)
    manifest = load_checkpoint(target).manifest
    assert manifest.training["mean_of"] == [load_checkpoint(path).digest for path in members]
    assert (manifest.metrics, manifest.dice_by_spacing) == ((), None)


def test_the_mean_of_a_checkpoint_with_itself_gives_the_same_weights(
    tiny_ensemble: TinyEnsemble, tmp_path: Path
) -> None:
    one = tiny_ensemble.members[0]
    write_mean([one, one], tmp_path / "mean.safetensors")
    before, after = load_file(one), load_file(tmp_path / "mean.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_what_has_no_mean_is_refused(tiny_ensemble: TinyEnsemble, tmp_path: Path) -> None:
    member, target = tiny_ensemble.members[0], tmp_path / "mean.safetensors"
    other = TINY.model_copy(update={"hypernetwork": HypernetworkShape(hidden=(8, 8))})
    save_checkpoint(
        tmp_path / "wide.safetensors", Hypernetwork(other.architecture, other.hypernetwork, other.grid), other
    )
    for paths, message in (
        ([member], "two checkpoints or more; 1 was given"),
        ([member, tiny_ensemble.file], "tiny.safetensors: an ensemble has no mean"),
        ([member, tmp_path / "wide.safetensors"], "cannot be averaged: they differ in hypernetwork"),
    ):
        with pytest.raises(CheckpointInvalid, match=message):
            write_mean(paths, target)
    assert not target.exists()
