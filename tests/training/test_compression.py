"""A compressed checkpoint is an ordinary one, smaller, and generates the same networks, or is not written."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unet_factory.domain.manifest import Architecture, HypernetworkShape, Manifest, Parametrization
from unet_factory.domain.spacing import SnappedSpacing, SpacingGrid
from unet_factory.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from unet_factory.model.hypernetwork import Hypernetwork
from unet_factory_training.compression import (
    ToleranceMissed,
    compress,
    compress_file,
    fit_basis,
    fitted_spacings,
    held_out_spacings,
    with_basis,
)
from unet_factory_training.logit_change import LogitComparison, Probe

ARCHITECTURE = Architecture(classes=3, channels=(4, 8), blocks=1)
PROBE = Probe(torch.randn((16, 16, 16), generator=torch.Generator().manual_seed(0)))

parametrizations = pytest.mark.parametrize("parametrization", [Parametrization.PAPER, Parametrization.MIP])


def make(manifest: Manifest, parametrization: Parametrization, hidden: tuple[int, ...]) -> Checkpoint:
    torch.manual_seed(0)
    shape = HypernetworkShape(parametrization=parametrization, hidden=hidden)
    hypernetwork = Hypernetwork(ARCHITECTURE, shape, manifest.grid).requires_grad_(False)
    if parametrization is Parametrization.MIP:  # as after training, when the spacing matters
        hypernetwork.heads.mul_(30)
    described = manifest.model_copy(update={"architecture": ARCHITECTURE, "hypernetwork": shape})
    return Checkpoint((hypernetwork.eval(),), described, "digest")


@parametrizations
def test_at_full_rank_it_is_exact(parametrization: Parametrization, tiny_manifest: Manifest) -> None:
    original = make(tiny_manifest, parametrization, (8, 6)).hypernetwork
    basis = fit_basis(original, fitted_spacings(tiny_manifest.grid))
    same = with_basis(original, basis, "float32")
    for spacing in held_out_spacings(tiny_manifest.grid):
        expected = original.generate(spacing)
        for name, tensor in same.generate(spacing).items():
            assert torch.allclose(tensor, expected[name], rtol=1e-4, atol=1e-5), name


@parametrizations
def test_the_basis_is_the_best_of_its_rank(parametrization: Parametrization, tiny_manifest: Manifest) -> None:
    """No other directions leave less of the weights' change over the fitted spacings."""
    original = make(tiny_manifest, parametrization, (8, 6)).hypernetwork
    spacings = fitted_spacings(tiny_manifest.grid)[:200]
    features = torch.stack([original.features(torch.tensor(spacing.mm)) for spacing in spacings])
    flat = (features - features.mean(dim=0)) @ original.heads.T
    singular = torch.linalg.svdvals(flat.double())
    basis = fit_basis(original, spacings)
    for rank in (1, 2):
        projected = torch.stack([basis.of_rank(rank).project(row) for row in features])
        left = float(((features - projected) @ original.heads.T).double().norm())
        assert left == pytest.approx(float(singular[rank:].norm()), rel=1e-3)


@parametrizations
def test_a_wide_hypernetwork_shrinks_within_the_tolerance(
    parametrization: Parametrization, tiny_manifest: Manifest, tmp_path: Path
) -> None:
    checkpoint = make(tiny_manifest, parametrization, (10, 10, 50))
    source, target = tmp_path / "wide.safetensors", tmp_path / "narrow.safetensors"
    save_checkpoint(source, checkpoint.hypernetwork, checkpoint.manifest)
    compressed = compress_file(source, target, 1e-3, PROBE)
    assert target.stat().st_size < source.stat().st_size / 2
    loaded = load_checkpoint(target)
    assert loaded.manifest.hypernetwork.basis == loaded.hypernetwork.heads.shape[1] < 50
    assert loaded.manifest.training["compression"]["from"] == load_checkpoint(source).digest
    spacings = held_out_spacings(tiny_manifest.grid)
    assert not set(spacings) & set(fitted_spacings(tiny_manifest.grid))
    comparison = LogitComparison(ARCHITECTURE, checkpoint.hypernetwork.generate, spacings, PROBE)
    found = comparison.change(loaded.hypernetwork.generate)
    # up to rounding, in which oneDNN's convolutions were seen to differ
    assert asdict(found) == pytest.approx(asdict(compressed.change), rel=0.01), "the file holds what was measured"
    assert 0 < found.largest <= 1e-3


def test_a_file_of_a_given_size_holds_as_many_heads_as_fit(tiny_manifest: Manifest, tmp_path: Path) -> None:
    """All of it in float16; the best heads, so that more of them change the networks less."""
    checkpoint = make(tiny_manifest, Parametrization.MIP, (10, 10, 8))
    source, target = tmp_path / "source.safetensors", tmp_path / "target.safetensors"
    save_checkpoint(source, checkpoint.hypernetwork, checkpoint.manifest)
    weights, changes = checkpoint.hypernetwork.bias.numel(), []
    for heads in (1, 3):
        most = 2 * weights * (heads + 1) + 2**17 + 100
        compressed = compress_file(source, target, 1e-3, PROBE, most)
        assert target.stat().st_size <= most
        assert compressed.hypernetwork.heads.shape[1] == heads
        changes.append(compressed.change.rms)
    assert changes == sorted(changes, reverse=True)
    spacing = held_out_spacings(tiny_manifest.grid)[0]
    stored, measured = load_checkpoint(target).hypernetwork, compressed.hypernetwork
    for name, tensor in measured.generate(spacing).items():
        torch.testing.assert_close(stored.generate(spacing)[name], tensor)
    least_mb = (2 * 2 * weights + 2**17) / 1e6
    with pytest.raises(ToleranceMissed, match=f"MB are too few; one head for each weight takes {least_mb:.1f} MB"):
        compress_file(source, target, 1e-3, PROBE, 1000)


def test_a_looser_tolerance_makes_a_smaller_checkpoint_and_it_can_be_compressed_again(tiny_manifest: Manifest) -> None:
    checkpoint = make(tiny_manifest, Parametrization.MIP, (10, 10, 50))
    strict, loose = (compress(checkpoint, tolerance, PROBE, 10**9) for tolerance in (1e-5, 1e-1))
    assert loose.hypernetwork.heads.shape[1] < strict.hypernetwork.heads.shape[1]
    again = compress(Checkpoint((strict.hypernetwork,), strict.manifest, "digest"), 1e-1, PROBE, 10**9)
    assert again.hypernetwork.heads.shape[1] == loose.hypernetwork.heads.shape[1]


def test_it_refuses_what_it_cannot_keep(tiny_manifest: Manifest, tmp_path: Path) -> None:
    checkpoint = make(tiny_manifest, Parametrization.PAPER, (10, 10, 50))
    source, target = tmp_path / "wide.safetensors", tmp_path / "narrow.safetensors"
    save_checkpoint(source, checkpoint.hypernetwork, checkpoint.manifest)
    with pytest.raises(ToleranceMissed, match=r"1\.0e-12 of the largest; the best smaller checkpoint changes them by"):
        compress_file(source, target, 1e-12, PROBE)
    assert not target.exists()
    with pytest.raises(ToleranceMissed, match="no smaller checkpoint"):
        compress(checkpoint, 1e-3, PROBE, size_bytes=1000)
    constant = replace(
        checkpoint,
        manifest=checkpoint.manifest.model_copy(
            update={"hypernetwork": HypernetworkShape(parametrization=Parametrization.CONSTANT)}
        ),
    )
    with pytest.raises(ToleranceMissed, match="nothing to compress"):
        compress(constant, 1e-3, PROBE, 10**9)


@settings(max_examples=10, deadline=None)
@given(st.tuples(*[st.integers(10, 70)] * 3))
def test_a_change_is_nothing_for_the_same_network_and_grows_with_the_difference(steps: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    grid = SpacingGrid.from_mm(0.05, [(0.5, 3.5)] * 3)
    shape = HypernetworkShape(hidden=(8, 6))
    original = Hypernetwork(ARCHITECTURE, shape, grid).requires_grad_(False)
    spacing = SnappedSpacing(*(step * 50 for step in steps))
    comparison = LogitComparison(ARCHITECTURE, original.generate, [spacing], PROBE)
    assert comparison.change(original.generate).largest == 0
    changes = []
    for factor in (1.001, 1.1):
        original_head = original.generate(spacing)
        changed = {**original_head, "head.weight": original_head["head.weight"] * factor}
        changes.append(comparison.change(lambda _, weights=changed: weights).largest)  # type: ignore[misc]
    assert 0 < changes[0] < changes[1]
    assert changes[1] == pytest.approx(0.1, rel=0.3)


def test_a_scan_is_seen_at_each_spacing() -> None:
    probe = Probe(torch.randn(40, 30, 20), (1.0, 1.0, 2.0))
    assert probe.at(SnappedSpacing(1000, 1000, 2000), (8, 8, 8)).shape == (1, 1, 40, 32, 24)
    assert probe.at(SnappedSpacing(2000, 2000, 2000), (8, 8, 8)).shape == (1, 1, 24, 16, 24)
    assert probe.at(SnappedSpacing(500, 500, 500), (8, 8, 8)).shape == (1, 1, 48, 48, 48)
