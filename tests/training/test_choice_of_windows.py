"""How much windows overlap is decided on the validation split, written beside the weights, and used everywhere."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from unet_factory.domain.spacing import OutsidePolicy, SnappedSpacing, plan_spacing
from unet_factory.domain.windows import WINDOW_OVERLAP
from unet_factory.domain.workload import workload_of
from unet_factory.model.checkpoint import load_checkpoint, parse_unet, save_checkpoint, standalone_bytes
from unet_factory.model.hypernetwork import Hypernetwork
from unet_factory.platform.manifest_file import read_manifest
from unet_factory_training.config import TrainingConfig
from unet_factory_training.datasets import read_split
from unet_factory_training.evaluation import score_scans
from unet_factory_training.evaluation_report import publish
from unet_factory_training.faster_inference import OVERLAPS, WAYS, Cost, Way, choose_windows, decide, rows_of
from unet_factory_training.loop import manifest_of


@pytest.mark.parametrize(
    ("dice", "windows", "chosen"),
    [
        pytest.param((0.8, 0.8, 0.8), (3, 2, 1), 0.25, id="nothing lost"),
        pytest.param((0.8, 0.8, 0.8), (3, 2, 2), 0.375, id="no fewer windows"),
        pytest.param((0.8, 0.7995, 0.7985), (3, 2, 1), 0.375, id="a little lost"),
        pytest.param((0.8, 0.7985, 0.81), (3, 2, 1), 0.25, id="each by itself"),
        pytest.param((0.8, 0.7985, 0.7985), (3, 2, 1), 0.5, id="too much lost"),
    ],
)
def test_the_fewest_windows_that_lose_next_to_nothing(
    dice: tuple[float, ...], windows: tuple[int, ...], chosen: float
) -> None:
    found = zip(OVERLAPS, dice, windows, strict=True)
    costs = [Cost(Way("bfloat16", overlap), (mean,), 1.0, count) for overlap, mean, count in found]
    assert decide([Cost(Way("float32", WINDOW_OVERLAP), (1.0,), 1.0, 1.0), *costs]) == chosen


def test_the_choice_is_measured_as_evaluation_does_and_leaves_the_weights(
    config: TrainingConfig, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    hypernetwork = Hypernetwork(config.architecture, config.hypernetwork, config.grid)
    path, chosen, card = tmp_path / "a.safetensors", tmp_path / "b.safetensors", tmp_path / "card.md"
    manifest = manifest_of(config).model_copy(update={"window": (8, 8, 8)})
    save_checkpoint(path, hypernetwork, manifest)
    card.write_text("<!-- inference -->\n<!-- /inference -->")
    costs, overlap = choose_windows(config, path, chosen, card)
    assert all(torch.equal(tensor, load_file(path)[name]) for name, tensor in load_file(chosen).items())
    assert read_manifest(chosen) == manifest.model_copy(update={"window_overlap": overlap})
    assert [cost.way for cost in costs] == list(WAYS)
    assert costs[0].same == 1.0
    scans = read_split(config.dataset, "validation", config.architecture.classes)
    checkpoint = load_checkpoint(path)
    for cost in costs:
        judged = manifest.model_copy(update={"window_overlap": cost.way.overlap})
        plans = [plan_spacing(scan.spacing_ras_mm, manifest.grid, OutsidePolicy.CLAMP) for scan in scans]
        counts = [workload_of(judged, scan.image.shape, plan).windows for scan, plan in zip(scans, plans, strict=True)]
        assert cost.windows == pytest.approx(sum(counts) / len(counts))
        scores = score_scans(checkpoint.hypernetwork, judged, scans, [None], cost.way.precision)
        assert cost.dice == pytest.approx(torch.tensor([score.dice for score in scores]).nanmean(dim=0).tolist())
    assert costs[1].windows > costs[-1].windows
    for row in rows_of(costs, overlap, config.labels):
        assert f"| {' | '.join(row)} |" in card.read_text()


def test_networks_and_published_checkpoints_keep_it(config: TrainingConfig, tmp_path: Path) -> None:
    hypernetwork = Hypernetwork(config.architecture, config.hypernetwork, config.grid)
    path, published = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_checkpoint(path, hypernetwork, manifest_of(config).model_copy(update={"window_overlap": 0.375}))
    publish(path, [], config, published)
    checkpoint = load_checkpoint(published)
    unet = parse_unet(standalone_bytes(checkpoint, SnappedSpacing(*config.grid.min_um)))
    assert unet.manifest is not None
    assert unet.manifest.window_overlap == checkpoint.manifest.window_overlap == 0.375
