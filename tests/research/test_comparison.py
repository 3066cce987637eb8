"""Methods against each other, end to end on the small data set: what the arms are, and that nothing is done twice."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from pydantic import ValidationError
from torch.func import functional_call

from tests.fixtures.project import RESEARCH_CONFIGS
from unet_factory.domain.errors import CheckpointInvalid
from unet_factory.domain.spacing import SpacingMm
from unet_factory.model.inference import logits
from unet_factory.model.preprocessing import resample, zscore
from unet_factory.model.unet import empty_unet
from unet_factory_research.comparison.acquisitions import acquisitions_of
from unet_factory_research.comparison.compare import compare
from unet_factory_research.comparison.config import NATIVE, Comparison, read_comparison
from unet_factory_research.comparison.cost import measure_cost
from unet_factory_research.comparison.runs import Run, learning_curves, runs_of
from unet_factory_research.comparison.scoring import COLUMNS, Contender, contenders_of, score_all
from unet_factory_research.comparison.summary import summarise
from unet_factory_training.config import TrainingConfig
from unet_factory_training.datasets import find_subjects, read_scan
from unet_factory_training.evaluation import Simulated, segment_simulated, simulate
from unet_factory_training.recipes import RECIPES

FIXED = [1, 1, 1.2]

COMPARISON: dict[str, Any] = {
    "name": "small",
    "title": "Ellipsoids",
    "base": "base.yaml",
    "overrides": {"optimisation.iterations": 3, "validate_every": 2, "architecture.pooling": {"anisotropy": 2}},
    "reference": "HyperSpace",
    "arms": {
        "HyperSpace": {},
        "HyperSpace unclamped": {"from": "HyperSpace", "outside": "extrapolate"},
        "FS": {
            "overrides": {
                "hypernetwork.parametrization": "constant",
                "architecture.pooling": {"anisotropy": 2, "planned_at_mm": FIXED},
                "trained_range_mm": [[mm, mm] for mm in FIXED],
            }
        },
        "FSNR": {"from": "FS", "outside": "extrapolate"},
    },
    "fixed_mm": FIXED,
    "intervals": {"expected": [[0.5, 3.5]] * 3},
    "draws": 2,
    "segments": [{"name": "isotropic", "from_mm": [2, 2, 2], "to_mm": [4.5, 4.5, 4.5], "steps": 2}],
    "expectations": [{"against": "FS", "regions": ["expected", NATIVE], "at_least": -2}],
}


@pytest.fixture
def comparison(config: TrainingConfig, tmp_path: Path) -> Comparison:
    return written(config, tmp_path)


def written(config: TrainingConfig, folder: Path, **changes: Any) -> Comparison:
    (folder / "base.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    (folder / "small.yaml").write_text(yaml.safe_dump({**COMPARISON, **changes}, sort_keys=False))
    return read_comparison(folder / "small.yaml")


def test_a_whole_comparison_and_that_nothing_is_done_twice(
    comparison: Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, published = tmp_path / "output", tmp_path / "docs" / "results"
    published.mkdir(parents=True)
    compare(comparison, output, device="cpu")
    scores = pd.read_csv(output / "scores.csv")
    assert list(scores.columns) == COLUMNS
    cases = 1 + comparison.draws + 2  # native, drawn, along the segment; one scan, two labels
    assert len(scores) == len(comparison.arms) * cases * 2
    assert set(scores["region"]) == {NATIVE, "expected", "along isotropic"}

    written_at = {path: path.stat().st_mtime_ns for path in output.rglob("*.safetensors")}
    assert len(written_at) == 2
    monkeypatch.setattr(
        "unet_factory_research.comparison.scoring.segment_simulated", lambda *_: pytest.fail("scored twice")
    )
    compare(comparison, output, publish=published, device="cpu")
    assert written_at == {path: path.stat().st_mtime_ns for path in output.rglob("*.safetensors")}
    pd.testing.assert_frame_equal(scores, pd.read_csv(output / "scores.csv"))

    page = (published / "small.md").read_text()
    assert "unet-factory compare research/configs/small.yaml" in page
    for figure in ("dice", "hd95_mm", "volume_bias", "learning"):
        assert f"(small/{figure}.png)" in page
        assert (published / "small" / f"{figure}.png").stat().st_size > 1000
    summary = json.loads((published / "small" / "summary.json").read_text())
    assert [row["met"] for row in summary["expectations"]] == [True, True]
    assert "[Ellipsoids](results/small.md)" in (published.parent / "results.md").read_text()
    assert str(tmp_path) not in page + (published.parent / "results.md").read_text()


def test_another_configuration_does_not_take_over_a_run(config: TrainingConfig, tmp_path: Path) -> None:
    output = tmp_path / "output"
    compare(written(config, tmp_path), output, only="train", arms=["FS"], device="cpu")
    assert [path.name for path in (output / "runs").iterdir()] == ["fs-seed1"]
    other = written(config, tmp_path, overrides={"optimisation.iterations": 4})
    with pytest.raises(CheckpointInvalid, match="another configuration of FS"):
        compare(other, output, only="train", arms=["FS"], device="cpu")


def test_fixed_spacing_is_resampling_by_hand(comparison: Comparison, tmp_path: Path) -> None:
    """FS: to the fixed spacing, segment, logits back. FSNR: the same network without. HyperSpace: at the spacing."""
    arms = untrained(comparison, tmp_path)
    config = comparison.training_config("FS", 1)
    scan = read_scan(find_subjects(config.dataset, "test")[0], config.dataset)
    spacing = (2.0, 1.5, 3.0)
    simulated = simulate(scan, spacing, 3)
    predicted = {
        name: segment_simulated(arm.checkpoint.hypernetwork, arm.checkpoint.manifest, simulated, arm.outside)
        for name, arm in arms.items()
    }

    def by_hand(image: torch.Tensor, arm: Contender, spacing_mm: SpacingMm) -> torch.Tensor:
        manifest, snapped = arm.checkpoint.manifest, arm.checkpoint.manifest.grid.snap(spacing_mm)
        unet, weights = empty_unet(manifest.architecture, snapped).eval(), arm.checkpoint.hypernetwork.generate(snapped)
        with torch.inference_mode():
            return logits(
                lambda batch: functional_call(unet, weights, (batch,)),
                zscore(image),
                window=manifest.window,
                divisors=unet.divisors,
            )

    fixed = (1.0, 1.0, 1.2)
    resampled = by_hand(resample(simulated.image, spacing, fixed), arms["FS"], fixed)
    back = resample(resampled, fixed, spacing, simulated.image.shape)
    assert torch.equal(predicted["FS"], back.argmax(dim=0).to(torch.uint8))
    unresampled = by_hand(simulated.image, arms["FSNR"], spacing)
    assert torch.equal(predicted["FSNR"], unresampled.argmax(dim=0).to(torch.uint8))
    assert not torch.equal(predicted["FS"], predicted["FSNR"])
    assert arms["FS"].network == arms["FSNR"].network


def test_an_arm_may_work_at_the_fixed_spacing(comparison: Comparison, tmp_path: Path) -> None:
    """HyperSpace at FS's grid: its own network for that spacing, on scans brought there as FS brings them."""
    fixed: SpacingMm = (1.0, 1.0, 1.2)
    arm = replace(untrained(comparison, tmp_path)["HyperSpace"], working_mm=fixed)
    spacing: SpacingMm = (2.0, 1.5, 3.0)
    assert arm.plan(spacing).working_mm == arm.plan(spacing).snapped.mm == fixed
    config = comparison.training_config("FS", 1)
    simulated = simulate(read_scan(find_subjects(config.dataset, "test")[0], config.dataset), spacing, 3)
    network, manifest = arm.checkpoint.hypernetwork, arm.checkpoint.manifest
    predicted = segment_simulated(network, manifest, simulated, arm.outside, working_mm=arm.working_mm)
    there = Simulated(resample(simulated.image, spacing, fixed), simulated.labels, fixed)
    unet = network.unet(manifest.grid.snap(fixed))
    with torch.inference_mode():
        at_fixed = logits(unet, zscore(there.image), window=manifest.window, divisors=unet.divisors)
    back = resample(at_fixed, fixed, spacing, simulated.image.shape)
    assert torch.equal(predicted, back.argmax(dim=0).to(torch.uint8))


def test_with_folds_each_subject_is_scored_where_it_was_left_out(config: TrainingConfig, tmp_path: Path) -> None:
    folded = written(config, tmp_path, folds=2, seeds=[1, 2], splits=["validation"], segments=[])
    table = score_all(folded, contenders_untrained(folded, tmp_path), tmp_path / "scores")
    left_out = {seed: set(table[table["seed"] == seed]["scan"]) for seed in (1, 2)}
    for seed, scans in left_out.items():
        dataset = folded.training_config("HyperSpace", seed).dataset
        assert scans == {subject.name for subject in find_subjects(dataset, "validation")}
    assert not left_out[1] & left_out[2]
    summary = summarise(folded, table, None, learning_curves([]))
    assert summary["subjects"] == len(left_out[1] | left_out[2]) == 5
    with pytest.raises(ValidationError, match=r"with folds, splits must be \[validation\]"):
        written(config, tmp_path, folds=2)


def test_policies_differ_only_outside_the_trained_range(comparison: Comparison, tmp_path: Path) -> None:
    arms = untrained(comparison, tmp_path)
    clamped, unclamped = arms["HyperSpace"], arms["HyperSpace unclamped"]
    assert clamped.plan((2.0, 2.0, 2.0)) == unclamped.plan((2.0, 2.0, 2.0))
    assert clamped.plan((4.0, 2.0, 2.0)) != unclamped.plan((4.0, 2.0, 2.0))
    table = score_all(comparison, list(arms.values()), tmp_path / "scores")
    inside = table[table["region"] != "along isotropic"]
    first, second = (
        inside[inside["arm"] == arm].drop(columns="arm").reset_index(drop=True)
        for arm in ("HyperSpace", "HyperSpace unclamped")
    )
    assert len(first) == 2 * (1 + comparison.draws)
    pd.testing.assert_frame_equal(first, second)


def untrained(comparison: Comparison, folder: Path) -> dict[str, Contender]:
    return {contender.arm: contender for contender in contenders_untrained(comparison, folder)}


def contenders_untrained(comparison: Comparison, folder: Path) -> list[Contender]:
    """Every arm with random weights, for what does not depend on how good they are."""
    from unet_factory.model.checkpoint import save_checkpoint
    from unet_factory.model.hypernetwork import Hypernetwork
    from unet_factory_training.loop import manifest_of

    for run in runs_of(comparison, folder):
        torch.manual_seed(1)
        run.folder.mkdir(parents=True)
        manifest = manifest_of(run.config)
        hypernetwork = Hypernetwork(manifest.architecture, manifest.hypernetwork, manifest.grid)
        with torch.no_grad():
            hypernetwork.heads.normal_(std=0.3)
        save_checkpoint(run.checkpoint, hypernetwork, manifest)
    return contenders_of(comparison, runs_of(comparison, folder), {}, torch.device("cpu"))


def test_all_arms_share_everything_but_their_method(config: TrainingConfig) -> None:
    """As the shipped comparisons stand, one checkpoint's weights fit every arm's network."""
    os.environ.setdefault("UNET_FACTORY_DATA", "unset")
    paths = sorted(RESEARCH_CONFIGS.glob("*.yaml"))
    assert len(paths) >= 4
    for path in paths:
        comparison = read_comparison(path)
        method = {"name", "hypernetwork", "trained_range_mm", "architecture", "conditions"}
        method |= {"distillation", "initial_kernels"}
        per_scan: Any = {
            "batch": {"min_scans", "max_scans"},
            "sampling": {"acquired_mm", "views"},
            "optimisation": {"batches_per_step", "heads_decay", "consistency_weight"},
        }
        if any("recipe" in arm.overrides for arm in comparison.arms.values()):  # the recipe is what the arms differ in
            method |= {"recipe", "augmentation"}
            for section, _, value in (key.partition(".") for key in RECIPES["nnunet"] if "." in key):
                per_scan[section].add(value)
        changed = {name for arm in comparison.arms.values() for name in arm.overrides}
        if "optimisation.iterations" in changed:  # at equal seconds: as many steps as these pay for
            method |= {"validate_every"}
            per_scan["optimisation"].add("iterations")
        if "sampling" in changed:  # how spacings are drawn is what the arms differ in
            per_scan["sampling"] |= {"uniform", "overshoot", "log_uniform", "native"}
        excluded = {**dict.fromkeys(method, True), **per_scan}
        shared = [comparison.training_config(arm, 1).model_dump(exclude=excluded) for arm in comparison.arms]
        assert all(arm == shared[0] for arm in shared), path.name
        shapes = {comparison.training_config(arm, 1).architecture.channels for arm in comparison.arms}
        assert len(shapes) == 1, path.name


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"reference": "HyperSpaces"}, "no such arm: HyperSpaces; there are HyperSpace,"),
        ({"overrides": {"optimisation.iteration": 3}}, "optimisation.iteration"),
        ({"expectations": [{"against": "FS", "regions": ["fine"], "at_least": 0}]}, "no such region: fine"),
    ],
)
def test_mistakes_are_named(config: TrainingConfig, tmp_path: Path, changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        written(config, tmp_path, **changes)


def test_a_summary_counts_patients_not_frames(comparison: Comparison) -> None:
    """Two frames of one patient move its mean, not the number of subjects; differences are paired by subject."""
    rows = []
    for arm, bonus in (("HyperSpace", 0.1), ("FS", 0.0)):
        for scan, subject, dice in (("p1_a", "p1", 0.5), ("p1_b", "p1", 0.7), ("p2_a", "p2", 0.8)):
            for region in ("expected", NATIVE, "along isotropic"):
                scored = {"dice": dice + bonus, "hd95_mm": 2.0, "assd_mm": 1.0, "volume_bias": 0.0}
                spacing = {"spacing_r_mm": 1.0, "spacing_a_mm": 1.0, "spacing_s_mm": 1.0}
                rows.append({"arm": arm, "seed": 1, "scan": scan, "subject": subject, "region": region, "label": 1})
                rows[-1] |= {**scored, **spacing}
    summary = summarise(comparison, pd.DataFrame(rows), None, learning_curves([]))
    (fixed,) = (row for row in summary["regions"] if (row["arm"], row["region"]) == ("FS", "expected"))
    assert fixed["dice"]["mean"] == pytest.approx((0.6 + 0.8) / 2)
    (difference,) = (row for row in summary["differences"] if (row["region"], row["measure"]) == ("expected", "dice"))
    assert difference["subjects"] == 2
    assert difference["mean"] == pytest.approx(0.1)
    assert (summary["subjects"], summary["scans"]) == (2, 3)


def test_cost_falls_with_the_voxels_but_not_for_fixed_spacing(
    config: TrainingConfig, tmp_path: Path, dataset_root: Path
) -> None:
    along = {"name": "isotropic", "from_mm": [1, 1, 1], "to_mm": [3, 3, 3], "steps": 2}
    spacings = {"at_mm": [3, 3, 3], "against_mm": [1, 1, 1]}
    cost = {"arms": ["HyperSpace", "FS"], "along": along, "against": "FS", "times": 2, "repeats": 1, **spacings}
    comparison = written(config, tmp_path, cost={**cost, "extent_mm": [60, 60, 60]})
    assert comparison.cost is not None
    arms = untrained(comparison, tmp_path)
    torch.set_num_threads(1)
    table = measure_cost(comparison.cost, [arms["HyperSpace"], arms["FS"]], 0.05)
    rows = {(row["arm"], row["spacing_r_mm"]): row for row in table.to_dict(orient="records")}
    assert len(rows) == 4
    for measure, ratio in (("cpu_seconds", 3), ("peak_bytes", 3)):
        assert rows["HyperSpace", 3.0][measure] * ratio < rows["FS", 3.0][measure]
    assert rows["HyperSpace", 1.0]["peak_bytes"] > 60**3 * 4  # more than the scan itself


def test_curves_may_be_of_fewer_scans(comparison: Comparison) -> None:
    config = comparison.training_config("FS", 1)
    scan = read_scan(find_subjects(config.dataset, "test")[0], config.dataset)
    (segment,) = comparison.segments
    few = comparison.model_copy(update={"segments": (segment.model_copy(update={"scans": 1}),)})
    regions = [{region for found in acquisitions_of(few, scan, n, config).values() for region in found} for n in (0, 1)]
    assert regions == [{NATIVE, "expected", segment.region}, {NATIVE, "expected"}]


def test_validation_scores_are_recorded_once_per_iteration(comparison: Comparison, tmp_path: Path) -> None:
    run = Run("FS", 1, comparison.training_config("FS", 1), tmp_path)
    head = "iteration,voxels,seconds,cpu_seconds,set,dice"
    rows = ["2,90,1.5,1.4,native,0.5", "2,90,1.5,1.4,coarse,0.4", "4,180,3,2.8,native,0.6", "4,180,3,2.8,native,0.61"]
    (tmp_path / "validation.csv").write_text("\n".join([head, *rows]) + "\n")
    curves = learning_curves([run, replace(run, folder=tmp_path / "nothing")])
    assert curves["voxels"].tolist() == [90, 90, 180]
    assert curves[["iteration", "set", "dice"]].values.tolist() == [
        [2, "native", 0.5],
        [2, "coarse", 0.4],
        [4, "native", 0.61],
    ]
