"""Mirroring in use: what it computes, what it costs, and for which models it can be had."""

import pytest
import torch
from torch import Tensor

from unet_factory.domain.conditions import Condition
from unet_factory.domain.errors import CheckpointInvalid, MalformedRequest
from unet_factory.domain.manifest import Manifest
from unet_factory.domain.plausibility import Axis
from unet_factory.domain.spacing import OutsidePolicy, plan_spacing
from unet_factory.domain.workload import workload_of
from unet_factory.model.checkpoint import Checkpoint
from unet_factory.model.hypernetwork import Hypernetwork
from unet_factory.model.mirroring import mirrored
from unet_factory_training.ensemble import Ensemble


def checkpoint(manifest: Manifest, seed: int) -> Checkpoint:
    torch.manual_seed(seed)
    hypernetwork = Hypernetwork(manifest.architecture, manifest.hypernetwork, manifest.grid, manifest.conditions)
    return Checkpoint((hypernetwork.requires_grad_(False),), manifest, f"{seed:064d}")


def trained_mirrored(manifest: Manifest, *axes: int) -> Manifest:
    return manifest.model_copy(update={"training": {"augmentation": {"flip_axes": list(axes)}}})


@pytest.mark.parametrize("axes", [("R",), ("A", "S"), ("R", "A", "S")])
def test_the_mirror_image_of_a_scan_gets_the_mirror_image_of_its_logits(
    tiny_manifest: Manifest, axes: tuple[Axis, ...]
) -> None:
    """Along the axes mirrored; a network alone does not do so, nor along an axis left out."""
    snapped = tiny_manifest.grid.snap((1.0, 1.0, 1.0))
    network, calls = checkpoint(tiny_manifest, 0).hypernetwork.unet(snapped), []

    def counted(window: Tensor) -> Tensor:
        calls.append(window)
        logits: Tensor = network(window)
        return logits

    window = torch.randn(1, 1, 8, 12, 6)
    found = mirrored(counted, axes)(window)
    assert len(calls) == 2 ** len(axes)
    for place, axis in enumerate("RAS", start=2):
        of_image = mirrored(network, axes)(window.flip(place)).flip(place)
        assert torch.allclose(of_image, found, atol=1e-5) is (axis in axes)
    assert mirrored(network, ()) is network


def test_only_axes_that_training_mirrored_can_be_had(tiny_manifest: Manifest) -> None:
    both = trained_mirrored(tiny_manifest, 0, 2)
    assert both.mirrored_axes == both.axes_to_mirror(wanted=True) == ("R", "S")
    assert both.axes_to_mirror(wanted=False) == ()
    for never in (tiny_manifest.model_copy(update={"training": {}}), trained_mirrored(tiny_manifest)):
        assert never.axes_to_mirror(wanted=False) == ()
        with pytest.raises(MalformedRequest, match="tiny: it was not trained on mirrored scans"):
            never.axes_to_mirror(wanted=True)


def test_mirroring_costs_a_run_for_each_image(tiny_manifest: Manifest) -> None:
    manifest = trained_mirrored(tiny_manifest, 0, 1)
    plan = plan_spacing((1.0, 1.0, 1.0), manifest.grid, OutsidePolicy.CLAMP)
    plain, dear = (workload_of(manifest, (70, 40, 30), plan, mirroring=mirroring) for mirroring in (False, True))
    assert dear.windows == 4 * plain.windows > 4
    assert dear == plain.model_copy(update={"windows": dear.windows})


def test_an_ensemble_takes_the_mean_of_its_members_probabilities(tiny_manifest: Manifest) -> None:
    members = [checkpoint(tiny_manifest, seed) for seed in (0, 1, 2)]
    snapped, window = tiny_manifest.grid.snap((1.0, 2.0, 1.5)), torch.randn(1, 1, 8, 8, 8)
    networks = [member.hypernetwork.unet(snapped) for member in members]
    together = Ensemble(members).unet(snapped)
    expected = torch.stack([network(window).softmax(dim=1) for network in networks]).mean(dim=0)
    torch.testing.assert_close(together(window).exp(), expected)
    assert together.divisors == networks[0].divisors
    assert torch.equal(Ensemble(members[:1]).unet(snapped)(window), networks[0](window))
    mirror = Ensemble(members, ["R"]).unet(snapped)
    torch.testing.assert_close(mirror(window.flip(2)).flip(2), mirror(window))


def test_checkpoints_of_different_tasks_are_no_ensemble(tiny_manifest: Manifest) -> None:
    field = Condition(name="field_t", minimum=1, maximum=3, step=0.5, default=1.5)
    other = checkpoint(tiny_manifest.model_copy(update={"name": "other", "conditions": (field,)}), 0)
    with pytest.raises(CheckpointInvalid, match="tiny and other cannot be one ensemble: they differ in conditions"):
        Ensemble([checkpoint(tiny_manifest, 0), other])
