"""Centered kernel alignment is what its papers say, and what is compared lies at the same place at every spacing."""

import itertools
import json
from collections.abc import Callable, Iterable
from pathlib import Path

import cka as published
import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.conv import _ConvNd
from typer.testing import CliRunner

from unet_factory.domain.errors import FactoryError
from unet_factory.domain.manifest import Architecture, HypernetworkShape, Manifest, Parametrization, Pooling
from unet_factory.domain.spacing import SnappedSpacing
from unet_factory.model.checkpoint import load_checkpoint, save_checkpoint
from unet_factory.model.hypernetwork import Hypernetwork
from unet_factory.model.plain_unet import ConvBlock
from unet_factory.model.preprocessing import resample
from unet_factory.model.unet import empty_unet
from unet_factory_cli.commands import app
from unet_factory_research.cka.analysis import CannotCompare, analyse, batches_of
from unet_factory_research.cka.crops import Crop, CropTooLarge, aligned, draw_crops, field_of
from unet_factory_research.cka.grams import grams_of
from unet_factory_research.cka.hsic import Estimator, centred_gram, cka, hsic
from unet_factory_research.cka.layers import layers_of, ratio_of
from unet_factory_research.cka.maps import rate_of_change
from unet_factory_research.cka.options import CkaOptions
from unet_factory_research.cka.regions import SKIP_CONNECTED, levels_of, regions_of
from unet_factory_training.config import TrainingConfig
from unet_factory_training.datasets import LabelledScan

ESTIMATORS: list[Estimator] = ["unbiased", "biased"]
ONE_MM, TWO_MM, SLICES = (
    SnappedSpacing(1000, 1000, 1000),
    SnappedSpacing(2000, 2000, 2000),
    SnappedSpacing(800, 800, 4000),
)
DEEP = Architecture(classes=2, channels=(4, 8, 8), blocks=2)
FOLLOWING = Architecture(classes=2, channels=(4, 8, 8), blocks=2, pooling=Pooling(anisotropy=2))

estimators = pytest.mark.parametrize("estimator", ESTIMATORS)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def similarity(x: Tensor, y: Tensor, estimator: Estimator) -> float:
    return float(cka([centred_gram(x, estimator)[None]], [centred_gram(y, estimator)[None]]))


def hsic_of(x: Tensor, y: Tensor, estimator: Estimator = "unbiased") -> float:
    return float(hsic(centred_gram(x, estimator)[None], centred_gram(y, estimator)[None]))


@estimators
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), scale=st.floats(1e-3, 1e3), samples=st.integers(4, 12))
def test_rotation_scale_and_shift_change_nothing(estimator: Estimator, seed: int, scale: float, samples: int) -> None:
    x, y = normal(samples, 5, seed=seed), normal(samples, 7, seed=seed + 1)
    rotation = torch.linalg.qr(normal(5, 5, seed=seed + 2)).Q
    moved = scale * (x @ rotation + normal(1, 5, seed=seed + 3))
    assert similarity(x, x, estimator) == pytest.approx(1)
    assert similarity(x, moved, estimator) == pytest.approx(1)
    assert similarity(moved, y, estimator) == pytest.approx(similarity(x, y, estimator), abs=1e-9)
    assert similarity(y, x, estimator) == pytest.approx(similarity(x, y, estimator))


def test_another_linear_map_does_change_it() -> None:
    x = normal(10, 5)
    assert similarity(x, x * torch.tensor([10, 1, 1, 1, 1]), "unbiased") < 0.9


def test_it_agrees_with_a_published_implementation() -> None:
    """pytorch-cka computes Nguyen's estimator from three sums, not by centring."""
    x, y = (
        [normal(9, 6, seed=seed) for seed in range(3)],
        [normal(9, 4, seed=seed) + x for seed, x in enumerate([0, 1])],
    )
    y[0][:, 0] += x[0][:, 0]
    ours = cka([torch.stack([centred_gram(each) for each in x])], [torch.stack([centred_gram(each) for each in y])])
    assert torch.allclose(ours.clamp(min=0), published.cka_from_features(x, y), atol=1e-12), "theirs stops at 0"
    grams = [torch.stack([each @ each.T for each in side]) for side in (x, y)]
    expected, _, _ = published.hsic(grams[0], grams[1])
    found = hsic(torch.stack([centred_gram(each) for each in x]), torch.stack([centred_gram(each) for each in y]))
    assert torch.allclose(found, expected, atol=1e-12)


def test_the_biased_one_is_the_formula_of_its_paper() -> None:
    """Kornblith et al., ICML 2019, equation 4, and by hand: x = (0, 1, 1, 2), y = (0, 0, 1, 1) have r² = 1/2."""
    x, y = normal(8, 3), normal(8, 5, seed=1) + normal(8, 1)
    a, b = x - x.mean(dim=0), y - y.mean(dim=0)
    expected = (b.T @ a).norm() ** 2 / ((a.T @ a).norm() * (b.T @ b).norm())
    assert similarity(x, y, "biased") == pytest.approx(float(expected))
    by_hand = similarity(torch.tensor([[0.0], [1], [1], [2]]), torch.tensor([[0.0], [0], [1], [1]]), "biased")
    assert by_hand == pytest.approx(0.5)


def test_the_unbiased_one_is_what_its_definition_says() -> None:
    """Song et al., JMLR 2012: expectations over different samples, each replaced by the mean over all such tuples."""
    x, y = normal(6, 2), normal(6, 3, seed=1)
    k, m = x @ x.T, y @ y.T

    def mean(order: int, value: Callable[..., Tensor]) -> float:
        return float(torch.stack([value(*indices) for indices in itertools.permutations(range(6), order)]).mean())

    expected = (
        mean(2, lambda i, j: k[i, j] * m[i, j])
        + mean(4, lambda i, j, p, q: k[i, j] * m[p, q])
        - 2 * mean(3, lambda i, j, q: k[i, j] * m[i, q])
    )
    assert hsic_of(x, y) == pytest.approx(expected)


def test_independent_features_of_few_samples_are_alike_only_by_bias() -> None:
    x, y = normal(400, 8, 100), normal(400, 8, 100, seed=1)
    found = {e: float(np.mean([similarity(a, b, e) for a, b in zip(x, y, strict=True)])) for e in ESTIMATORS}
    assert abs(found["unbiased"]) < 0.04
    assert found["biased"] > 0.8


def test_mini_batches_estimate_what_all_samples_do() -> None:
    """The mean over all mini-batches there are is the same number, whatever their size; the biased one's is not."""
    x, y = normal(8, 3), normal(8, 3, seed=1)
    y[:, 0] += x[:, 0]
    for size in (4, 5, 7):
        subsets = [list(subset) for subset in itertools.combinations(range(8), size)]
        means = {e: np.mean([hsic_of(x[s], y[s], e) for s in subsets]) for e in ESTIMATORS}
        assert means["unbiased"] == pytest.approx(hsic_of(x, y, "unbiased"))
        assert means["biased"] != pytest.approx(hsic_of(x, y, "biased"), rel=0.02)


def test_mini_batches_come_close_to_all_samples() -> None:
    x = normal(512, 6)
    y = torch.relu(x @ normal(6, 6, seed=1))
    parts = [(x[part], y[part]) for part in torch.arange(512).split(16)]
    batched = cka([centred_gram(a)[None] for a, _ in parts], [centred_gram(b)[None] for _, b in parts])
    assert float(batched) == pytest.approx(similarity(x, y, "unbiased"), abs=0.02)


@pytest.mark.parametrize(("architecture", "spacing"), [(DEEP, ONE_MM), (FOLLOWING, SLICES)])
def test_every_convolution_and_nonlinearity_is_a_layer(architecture: Architecture, spacing: SnappedSpacing) -> None:
    layers, unet = layers_of(architecture, spacing), empty_unet(architecture, spacing)
    convolutions = {name for name, module in unet.named_modules() if isinstance(module, _ConvNd)}
    assert {name for name in layers.names if not name.endswith(".relu")} == convolutions
    assert {name for name in layers.names if name.endswith(".relu")} == {f"{name}.relu" for name in convolutions} - {
        "head.relu"
    }
    assert layers.names[0] == "stem.conv"
    assert layers.names[-1] == "head"


def test_skip_connections_are_found_and_shorten_the_way() -> None:
    layers = layers_of(DEEP, ONE_MM)
    at = layers.names.index
    assert layers.skips == [
        (at("encoders.0.1.conv.relu"), at("decoders.0.0.conv")),
        (at("encoders.1.1.conv.relu"), at("decoders.1.0.conv")),
    ]
    start, end = layers.skips[0]
    assert layers.distances[start, end] == 1
    assert layers.distances[0, 1] == layers.distances[1, 0] == 1
    assert layers.distances[start, start + 5] == 5
    regions = regions_of(layers)
    assert regions[SKIP_CONNECTED][start, end]
    assert not regions[SKIP_CONNECTED][start, at("ups.1.conv")]
    covered = np.sum(list(regions.values()), axis=0)
    assert (covered == 1 - np.eye(len(layers.names))).all()


def test_pooling_that_follows_the_spacing_shows_in_the_sizes() -> None:
    isotropic, sliced = layers_of(FOLLOWING, ONE_MM), layers_of(FOLLOWING, SLICES)
    assert isotropic.names == sliced.names
    bottom = sliced.names.index("encoders.2.0.conv")
    assert isotropic.ratios[bottom] == (4, 4, 4)
    assert sliced.ratios[bottom] == (4, 4, 1)
    assert levels_of(sliced)[bottom] == 2
    assert sliced.ratios[sliced.names.index("ups.0.conv")] == (1, 1, 1), "one slice too many is cut off later"


def test_a_layer_of_no_tiling_size_is_refused() -> None:
    assert ratio_of((16, 12, 5), (4, 4, 6)) == (4, 4, 1) == ratio_of((16, 16, 5), (4, 4, 5))
    with pytest.raises(ValueError, match="6 voxels of a layer do not tile 16"):
        ratio_of((16,), (6,))


@pytest.mark.parametrize("spacing", [ONE_MM, TWO_MM, SnappedSpacing(1300, 1700, 900), SLICES])
@pytest.mark.parametrize("architecture", [DEEP, FOLLOWING])
def test_convolutions_that_only_pass_on_see_a_gradient_where_it_is(
    architecture: Architecture, spacing: SnappedSpacing
) -> None:
    """The value is the position: after the network's own way down and up it must be that of the crop's points."""
    axes = [(torch.arange(extent) - (extent - 1) / 2) * 1.0 for extent in (48, 52, 56)]
    gradient = torch.tensor([1.0, 2.0, 3.5])
    positions = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    image = positions @ gradient
    crop = Crop(LabelledScan("gradient", image, torch.zeros_like(image), (1.0, 1.0, 1.0)), (3.1, -2.7, 4.3), 16.0)
    unet = empty_unet(architecture, spacing)
    field = field_of(crop, spacing, unet.divisors)
    seen = resample(image, (1.0, 1.0, 1.0), spacing.mm)
    features = field.image * seen.std(correction=0) + seen.mean()
    passed = [features := passing(conv, features) for conv in (unet.stem.conv, *convolutions_of(unet.downs))]
    for conv, skip in zip(reversed(convolutions_of(unet.ups)), reversed(passed[:-1]), strict=True):
        passed.append(passing(conv, features))
        r, a, s = skip.shape[2:]
        features = passed[-1][..., :r, :a, :s]
    for result in passed:
        ratios = ratio_of(field.image.shape[2:], result.shape[2:])
        found = aligned(result[0], ratios, field, crop)[0]
        expected = gradient @ torch.tensor(crop.centre_mm)
        for axis, (extent, slope) in enumerate(zip(found.shape, gradient, strict=True)):
            offsets = ((torch.arange(extent) + 0.5) / extent - 0.5) * 16
            expected = expected[..., None] + slope * offsets if axis else expected + slope * offsets
        assert torch.allclose(found, expected, atol=2e-2), ratios


def convolutions_of(blocks: Iterable[nn.Module]) -> list[nn.Module]:
    return [block.conv for block in blocks if isinstance(block, ConvBlock)]


def passing(layer: nn.Module, features: Tensor) -> Tensor:
    """The first channel, through kernels that interpolate linearly where a layer goes up, and pick where not."""
    kernel = torch.tensor([0.0, 1.0, 0.0])
    weight = torch.zeros(layer.weight.shape)  # type: ignore[arg-type]
    if isinstance(layer, nn.ConvTranspose3d):
        by_stride = {2: torch.tensor([0.5, 1.0, 0.5, 0.0]), 1: torch.tensor([0.0, 1.0, 0.0, 0.0])}
        kernels = [by_stride[stride] for stride in layer.stride]
    else:
        kernels = [kernel] * 3
    weight[0, 0] = torch.einsum("r,a,s->ras", *kernels)
    channels = weight.shape[0 if isinstance(layer, nn.ConvTranspose3d) else 1]
    given = torch.cat([features[:, :1], torch.zeros(1, channels - 1, *features.shape[2:])], dim=1)
    assert isinstance(layer.bias, Tensor)
    result: Tensor = functional_call(layer, {"weight": weight, "bias": torch.zeros(layer.bias.shape)}, (given,))
    return result


def test_crops_lie_within_their_scans_and_follow_the_seed() -> None:
    scans = [LabelledScan(str(n), torch.zeros(20, 24, 10 + n), torch.zeros(1), (1.0, 1.0, 2.0)) for n in range(6)]
    rounds = draw_crops(scans, 16.0, 3, seed=4)
    assert rounds == draw_crops(scans, 16.0, 3, seed=4) != draw_crops(scans, 16.0, 3, seed=5)
    for crop in itertools.chain(*rounds):
        for centre_mm, extent, mm in zip(crop.centre_mm, crop.scan.image.shape, (1, 1, 2), strict=True):
            assert abs(centre_mm) + 8 <= extent * mm / 2
    batches = batches_of(scans, CkaOptions(crop_mm=16, crops=2, batch=4))
    assert [len(batch) for batch in batches] == [6, 6]
    assert all(len({crop.scan.name for crop in batch}) == len(batch) >= 4 for batch in batches)
    with pytest.raises(CropTooLarge, match=r"0 is too small for a crop of 20\.5 mm; the largest possible is 20 mm"):
        draw_crops(scans, 20.5, 1, seed=0)
    with pytest.raises(CannotCompare, match="at least 4 scans, but the test split has 3"):
        batches_of(scans[:3], CkaOptions(crop_mm=16, split="test"))


def test_the_rate_is_the_slope_of_a_straight_line() -> None:
    spacings = [1.0, 1.2, 1.5, 2.0]
    maps = normal(4, 3, 3).numpy()
    rate = rate_of_change(maps, spacings)
    expected = np.polyfit(spacings, maps.reshape(4, 9), 1)[0].reshape(3, 3)
    assert np.allclose(rate.slope, expected)
    assert (rate.explained < 1).all()
    straight = np.array(spacings)[:, None, None] * expected + 0.1
    assert np.allclose(rate_of_change(straight, spacings).slope, expected)
    assert np.allclose(rate_of_change(straight, spacings).explained, 1)


def test_spacings_stay_within_the_trained_range(tiny_manifest: Manifest) -> None:
    grid = tiny_manifest.grid
    spacings = CkaOptions(steps=3).spacings(grid)
    assert [spacing.mm[0] for spacing in spacings] == [1, 1.5, 2]
    sliced = CkaOptions(finest_mm=(1, 1, 9), coarsest_mm=(1.2, 5, 9), steps=3)
    assert sliced.along_mm(sliced.spacings(grid)) == [1, 3, 3.5]
    assert {spacing.s_um for spacing in sliced.spacings(grid)} == {3500}


def checkpoint(path: Path, config: TrainingConfig, manifest: Manifest, seed: int, **changes: object) -> Path:
    described = manifest.model_copy(update={"architecture": config.architecture, **changes})
    torch.manual_seed(seed)
    hypernetwork = Hypernetwork(described.architecture, described.hypernetwork, described.grid)
    save_checkpoint(path, hypernetwork, described)
    return path


OPTIONS = CkaOptions(split="train", steps=3, crop_mm=12, crops=2, batch=4)


def test_the_maps_of_an_analysis_hold_together(config: TrainingConfig, tiny_manifest: Manifest, tmp_path: Path) -> None:
    paths = [checkpoint(tmp_path / f"seed{seed}.safetensors", config, tiny_manifest, seed) for seed in (0, 1)]
    analyse([*paths, paths[0]], config, OPTIONS, tmp_path / "out", device="cpu")
    with np.load(tmp_path / "out" / "maps.npz") as maps:
        within, across, between = maps["within"], maps["across"], maps["between"]
    layers = len(layers_of(config.architecture, ONE_MM).names)
    assert within.shape == across.shape == (3, 3, layers, layers)
    assert np.allclose(np.diagonal(within, axis1=-2, axis2=-1), 1)
    assert np.allclose(within, within.swapaxes(-2, -1))
    assert np.allclose(across[:, 0], within[:, 0]), "the finest network is the one compared with"
    assert (np.diagonal(across[:, 1:], axis1=-2, axis2=-1) < 0.9999).all()
    first_second, first_itself, second_first = between
    assert np.allclose(first_itself, within[0])
    assert (within[0] == within[2]).all(), "the same once more"
    assert np.allclose(first_second, second_first.swapaxes(-2, -1))
    assert (first_second < 0.9999).all()


def test_weights_that_ignore_the_spacing_see_much_the_same_at_the_next_one(
    config: TrainingConfig, scans: list[LabelledScan], tiny_manifest: Manifest, tmp_path: Path
) -> None:
    """Crops that were not aligned would not even agree in the first layers: those of other places do not."""
    constant = HypernetworkShape(parametrization=Parametrization.CONSTANT)
    path = checkpoint(tmp_path / "constant.safetensors", config, tiny_manifest, 0, hypernetwork=constant)
    here, there = (batches_of(scans, OPTIONS.model_copy(update={"seed": seed})) for seed in (0, 1))
    loaded, next_spacing = load_checkpoint(path), SnappedSpacing(1200, 1200, 1200)
    reference = grams_of(loaded, ONE_MM, here, "unbiased")
    assert cka(reference, grams_of(loaded, next_spacing, here, "unbiased")).diagonal()[:2].min() > 0.9
    assert cka(reference, grams_of(loaded, next_spacing, there, "unbiased")).diagonal()[:2].max() < 0.9


def test_networks_that_differ_in_more_than_weights_are_refused(
    config: TrainingConfig, tiny_manifest: Manifest, tmp_path: Path
) -> None:
    one = checkpoint(tmp_path / "one.safetensors", config, tiny_manifest, 0)
    wider = config.model_copy(update={"architecture": Architecture(classes=3, channels=(8, 8), blocks=1)})
    other = checkpoint(tmp_path / "other.safetensors", wider, tiny_manifest, 0)
    with pytest.raises(FactoryError, match=r"other\.safetensors and one\.safetensors differ in architecture"):
        analyse([one, other], config, OPTIONS, tmp_path / "out")


def test_the_command_writes_a_page_beside_its_figure(
    config: TrainingConfig, tiny_manifest: Manifest, tmp_path: Path
) -> None:
    path = checkpoint(tmp_path / "one.safetensors", config, tiny_manifest, 0)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    arguments = ["cka", str(path), str(path), "--config", str(tmp_path / "config.yaml"), "-o", str(tmp_path / "out")]
    arguments += ["--split", "train", "--steps", "2", "--crop-mm", "12", "--publish", str(tmp_path / "docs" / "alike")]
    result = CliRunner().invoke(app, [*arguments, "--device", "cpu"])
    assert result.exit_code == 0, result.output
    page = (tmp_path / "docs" / "alike.md").read_text()
    assert "](alike/cka.png)" in page
    assert (tmp_path / "docs" / "alike" / "cka.png").stat().st_size < 300_000
    summary = json.loads((tmp_path / "docs" / "alike" / "summary.json").read_text())
    assert list(summary["checkpoints"]) == ["one 1", "one 2"]
    assert summary["between"]["one 1 and one 2"]["same_layer"] == [1, 1]
    assert summary["between"]["one 1 and one 2"]["within_differs"] == [0, 0]
    missing = CliRunner().invoke(app, ["cka", str(tmp_path / "none"), *arguments[3:]])
    assert missing.exit_code == 2
    assert f"there is no file {tmp_path / 'none'}" in missing.output
