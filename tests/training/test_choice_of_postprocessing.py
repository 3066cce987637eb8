"""What is kept of label maps is decided on the validation split, adopted only where it helps, and written beside the
weights.
"""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from unet_factory.domain.postprocessing import Postprocessing
from unet_factory.model.checkpoint import load_checkpoint, save_checkpoint
from unet_factory.model.hypernetwork import Hypernetwork
from unet_factory.platform.manifest_file import read_manifest
from unet_factory_training.config import TrainingConfig
from unet_factory_training.datasets import read_split
from unet_factory_training.evaluation import score_scans
from unet_factory_training.evaluation_report import publish
from unet_factory_training.loop import manifest_of
from unet_factory_training.postprocessing import Measured, choose_postprocessing, decide, rows_of

NAN = float("nan")


def measured(given: list[float], foreground: list[float], labels: list[float], both: list[float]) -> Measured:
    """Two scans whose mean this is."""
    return Measured(*(_around(values) for values in (given, foreground, labels, both)))


def _around(values: list[float]) -> Tensor:
    middle = torch.tensor(values, dtype=torch.float64)
    return torch.stack([middle - 0.0625, middle + 0.0625])


@pytest.mark.parametrize(
    ("found", "kept"),
    [
        pytest.param(([0.5, 0.5], [0.5, 0.5], [0.5, 0.5], [0.5, 0.5]), (), id="no change is no gain"),
        pytest.param(([0.5, 0.5], [0.5, 0.75], [0.5, 0.5], [0.5, 0.75]), ((1, 2),), id="foreground"),
        pytest.param(([0.5, 0.5], [0.25, 1.0], [0.25, 0.5], [0.25, 1.0]), (), id="no label may fall"),
        pytest.param(([0.5, 0.5], [0.25, 1.0], [0.75, 0.25], [1.0, 1.0]), ((1,),), id="one label, from the given map"),
        pytest.param(
            ([0.5, 0.5], [0.75, 0.75], [1.0, 1.0], [0.5, 0.875]), ((1, 2), (2,)), id="foreground, then one label"
        ),
    ],
)
def test_a_step_is_adopted_if_no_label_falls_and_the_mean_rises(
    found: tuple[list[float], list[float], list[float], list[float]], kept: tuple[tuple[int, ...], ...]
) -> None:
    decision = decide(measured(*found))
    assert decision.postprocessing == Postprocessing(keep_largest=kept)
    assert [trial.group for trial in decision.trials] == [(1, 2), (1,), (2,)]
    assert decision.given == pytest.approx(found[0])


def test_labels_that_a_scan_lacks_do_not_count() -> None:
    given = torch.tensor([[0.5, NAN], [0.5, 0.5]])
    better = torch.tensor([[0.5, NAN], [0.5, 0.75]])
    assert decide(Measured(given, better, given, better)).postprocessing.keep_largest == ((1, 2),)


def test_one_label_is_tried_once() -> None:
    given, better = torch.tensor([[0.5]]), torch.tensor([[0.75]])
    assert [trial.group for trial in decide(Measured(given, better, better, better)).trials] == [(1,)]


def test_the_choice_is_that_of_plain_evaluation_and_leaves_the_weights(config: TrainingConfig, tmp_path: Path) -> None:
    """Random weights make scattered label maps; each variant is scored again by a checkpoint that has it."""
    torch.manual_seed(0)
    hypernetwork = Hypernetwork(config.architecture, config.hypernetwork, config.grid)
    path, chosen, card = tmp_path / "a.safetensors", tmp_path / "b.safetensors", tmp_path / "card.md"
    manifest = manifest_of(config)
    save_checkpoint(path, hypernetwork, manifest)
    card.write_text("<!-- postprocessing -->\n<!-- /postprocessing -->")
    decision = choose_postprocessing(config, path, chosen, draws=0, card=card)
    assert all(torch.equal(tensor, load_file(path)[name]) for name, tensor in load_file(chosen).items())
    assert read_manifest(chosen) == manifest.model_copy(update={"postprocessing": decision.postprocessing})
    scans = read_split(config.dataset, "validation", config.architecture.classes)

    def dice(postprocessing: Postprocessing) -> list[float]:
        checkpoint = load_checkpoint(path)
        judged = manifest.model_copy(update={"postprocessing": postprocessing})
        scores = score_scans(checkpoint.hypernetwork, judged, scans, [None], config.optimisation.precision)
        return torch.tensor([score.dice for score in scores]).nanmean(dim=0).tolist()

    assert decision.given == pytest.approx(dice(Postprocessing()))
    assert decision.trials[0].dice == pytest.approx(dice(Postprocessing(keep_largest=((1, 2),))))
    for row in rows_of(decision, config.labels):
        assert f"| {' | '.join(row)} |" in card.read_text()


def test_publishing_keeps_it(config: TrainingConfig, tmp_path: Path) -> None:
    hypernetwork = Hypernetwork(config.architecture, config.hypernetwork, config.grid)
    kept = Postprocessing(keep_largest=((2,),))
    save_checkpoint(
        tmp_path / "a.safetensors", hypernetwork, manifest_of(config).model_copy(update={"postprocessing": kept})
    )
    publish(tmp_path / "a.safetensors", [], config, tmp_path / "b.safetensors")
    assert read_manifest(tmp_path / "b.safetensors").postprocessing == kept
