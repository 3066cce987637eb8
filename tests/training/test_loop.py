"""The loop: it learns, it resumes to the very same result after kill -9, and it says which batch went wrong."""

import csv
import math
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from unet_factory.domain.errors import CheckpointInvalid, DatasetInvalid, StorageFull
from unet_factory.domain.manifest import HypernetworkShape
from unet_factory.model.checkpoint import load_checkpoint, save_checkpoint
from unet_factory_training.batch import Batch
from unet_factory_training.batches import SpacingBatches
from unet_factory_training.config import OptimisationConfig, TrainingConfig, read_config
from unet_factory_training.datasets import LabelledScan, find_subjects, read_scan
from unet_factory_training.engine import start_engine
from unet_factory_training.evaluation import dice, draw_spacings, mean_dice, score_scans
from unet_factory_training.loop import STATE_FILE, manifest_of, train
from unet_factory_training.spent import Spent
from unet_factory_training.trainer import Trainer, learning_rate_at

RUN = """
import sys
from pathlib import Path
from unet_factory_training.training_role import run
run(Path(sys.argv[1]), Path(sys.argv[2]), "cpu")
"""


def start_training(config_path: Path, run_dir: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-W", "ignore", "-c", RUN, str(config_path), str(run_dir)]
    with (run_dir.parent / f"{run_dir.name}.log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log)


def test_a_killed_run_resumes_to_the_same_checkpoint(config: TrainingConfig, tmp_path: Path) -> None:
    config_path = tmp_path / "config.yaml"
    config_path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    assert read_config(config_path) == config
    interrupted, whole = tmp_path / "interrupted", tmp_path / "whole"
    killed = start_training(config_path, interrupted)
    deadline = time.monotonic() + 60
    while not (interrupted / STATE_FILE).exists() and killed.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL, "the run ended before it could be killed"
    reached = torch.load(interrupted / STATE_FILE, weights_only=True)["iteration"]
    assert 0 < reached < config.optimisation.iterations
    for run_dir in (interrupted, whole):
        assert start_training(config_path, run_dir).wait(timeout=100) == 0, run_dir.with_suffix(".log").read_text()
    name = f"{config.name}.safetensors"
    assert (interrupted / name).read_bytes() == (whole / name).read_bytes()
    scalars = EventAccumulator(str(whole / "tensorboard")).Reload()
    assert [event.step for event in scalars.Scalars("loss")] == list(range(1, config.optimisation.iterations + 1))
    log = (whole / "train.log").read_text()
    assert re.search(
        r"iteration 30 of 30: loss \d\.\d{4}, [\d.]+ iterations/s, \d+% waiting for batches, 0:00:00 left", log
    )


def test_it_learns(config: TrainingConfig, tmp_path: Path) -> None:
    longer = OptimisationConfig(iterations=150, warmup=5, learning_rate=5e-3, ema_decay=0.9)
    config = config.model_copy(update={"optimisation": longer, "validate_every": 150, "save_every": 150})
    torch.set_num_threads(1)
    checkpoint = load_checkpoint(train(config, tmp_path, start_engine(config, "cpu")))
    scans = [read_scan(subject, config.dataset) for subject in find_subjects(config.dataset, "test")]
    scores = score_scans(checkpoint.hypernetwork, checkpoint.manifest, scans, draw_spacings(config.grid, 4, seed=0))
    assert mean_dice(scores) > 0.7


def test_a_loss_that_is_not_finite_names_its_batch(config: TrainingConfig, scans: list[LabelledScan]) -> None:
    trainer = Trainer(config, start_engine(config, "cpu"))
    good = SpacingBatches(scans, config)[0]
    bad = Batch(good.images * float("nan"), good.labels, good.spacing, good.names)
    with pytest.raises(FloatingPointError, match=good.names[0]):
        trainer.step([bad])
    assert trainer.iteration == 0


def test_schedule_warms_up_and_ends_at_zero() -> None:
    config = OptimisationConfig(iterations=1000, warmup=10, learning_rate=1.0)
    rates = [learning_rate_at(iteration, config) for iteration in range(1001)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(1.0, abs=0.01)
    assert rates[-1] == pytest.approx(0.0, abs=1e-9)
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_a_run_ends_when_its_voxels_are_used_up(config: TrainingConfig, tmp_path: Path) -> None:
    """Also where it was interrupted: with the same checkpoint, the table telling what each score had cost."""
    limits = config.optimisation.model_copy(update={"iterations": 1000, "max_voxels": 60_000})
    limited = config.model_copy(update={"optimisation": limits, "validate_every": 4, "save_every": 2})
    whole = train(limited, tmp_path / "whole", start_engine(limited, "cpu"))
    table = list(csv.DictReader((tmp_path / "whole" / "validation.csv").read_text().splitlines()))
    voxels, iterations = ([int(row[name]) for row in table] for name in ("voxels", "iteration"))
    assert voxels == sorted(voxels)
    assert iterations[-1] < 1000
    assert 60_000 <= voxels[-1] < 60_000 + limited.batch.max_scans * 16**3
    assert 0 < float(table[0]["seconds"]) <= float(table[-1]["seconds"])

    trainer = Trainer(limited, start_engine(limited, "cpu"))
    state = torch.load(tmp_path / "whole" / STATE_FILE, weights_only=True)
    trainer.resume(tmp_path / "whole" / STATE_FILE)
    assert (trainer.iteration, trainer.spent.voxels) == (state["iteration"], voxels[-1])
    assert trainer.share >= 1
    digest = whole.read_bytes()
    assert train(limited, tmp_path / "whole", start_engine(limited, "cpu")).read_bytes() == digest, "trained on"


def test_the_limit_that_is_closest_counts() -> None:
    spent = Spent(voxels=300, seconds=5.0)
    limits = OptimisationConfig(iterations=100)
    assert spent.share(20, limits) == pytest.approx(0.2)
    assert spent.share(20, limits.model_copy(update={"max_voxels": 1000})) == pytest.approx(0.3)
    assert spent.share(20, limits.model_copy(update={"max_voxels": 1000, "max_seconds": 4.0})) >= 1
    assert learning_rate_at(20, limits, share=1.2) == pytest.approx(0, abs=1e-12)


def test_dice_of_known_overlaps() -> None:
    reference = torch.zeros(4, 4, 4, dtype=torch.uint8)
    reference[:2], reference[2:] = 1, 2
    half = reference.clone()
    half[1], half[3] = 0, 0
    assert dice(reference, reference, 3) == pytest.approx((1.0, 1.0))
    assert dice(half, reference, 3) == pytest.approx((2 / 3, 2 / 3))


def test_the_environment_is_expanded_in_the_data_root(
    config: TrainingConfig, dataset_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOMEWHERE", os.fspath(dataset_root))
    moved = config.dataset.model_copy(update={"root": "$SOMEWHERE"})
    assert len(find_subjects(moved, "train")) == 4
    monkeypatch.delenv("SOMEWHERE")
    with pytest.raises(DatasetInvalid, match=r"\$SOMEWHERE"):
        find_subjects(moved, "train")


def test_averaging_and_clipping_can_be_left_out(config: TrainingConfig, scans: list[LabelledScan]) -> None:
    """The network that is saved is then the one that was trained, and gradients stay as they are."""
    batches, norms = SpacingBatches(scans, config), []
    for clip_norm in (None, 1e-6):
        optimisation = config.optimisation.model_copy(update={"ema_decay": 0.0, "clip_norm": clip_norm})
        changed = config.model_copy(update={"optimisation": optimisation})
        trainer = Trainer(changed, start_engine(changed, "cpu"))
        for iteration in (0, 1):
            trainer.step([batches[iteration]])
            assert torch.equal(trainer.averaged_hypernetwork.bias, trainer.hypernetwork.bias)
        assert trainer.hypernetwork.bias.grad is not None
        norms.append(float(trainer.hypernetwork.bias.grad.norm()))
    assert norms[0] > 1e-3
    assert norms[1] <= 1e-6


def test_decay_shrinks_the_heads_and_nothing_else(config: TrainingConfig, scans: list[LabelledScan]) -> None:
    """Without gradients each step multiplies the heads by 1 - learning rate * decay, at the rate of that step."""
    optimisation = config.optimisation.model_copy(update={"heads_decay": 0.3, "learning_rate": 0.01, "warmup": 2})
    config = config.model_copy(update={"optimisation": optimisation})
    trainer = Trainer(config, start_engine(config, "cpu"))
    before = {name: parameter.detach().clone() for name, parameter in trainer.hypernetwork.named_parameters()}
    for parameter in trainer.hypernetwork.parameters():
        parameter.register_hook(torch.zeros_like)
    batches = SpacingBatches(scans, config)
    for iteration in range(2):
        trainer.step([batches[iteration]])
    factor = (1 - 0.005 * 0.3) * (1 - 0.01 * (1 + math.cos(math.pi / 30)) / 2 * 0.3)
    for name, parameter in trainer.hypernetwork.named_parameters():
        expected = before[name] * factor if name == "heads" else before[name]
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-6, atol=0)


def test_sigterm_saves_the_step_in_hand(config: TrainingConfig, tmp_path: Path) -> None:
    """Long before the next regular save."""
    longer = config.model_copy(
        update={"save_every": 100_000, "optimisation": OptimisationConfig(iterations=100_000, warmup=2)}
    )
    config_path, run_dir = tmp_path / "config.yaml", tmp_path / "run"
    config_path.write_text(yaml.safe_dump(longer.model_dump(mode="json")))
    process, log = start_training(config_path, run_dir), tmp_path / "run.log"
    deadline = time.monotonic() + 60
    while b"from iteration 0" not in log.read_bytes() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    process.terminate()
    assert process.wait(timeout=60) == 128 + signal.SIGTERM, log.read_text()
    saved = torch.load(run_dir / STATE_FILE, weights_only=True)["iteration"]
    assert f"the state of iteration {saved} is saved" in log.read_text()


def test_a_full_disk_leaves_the_last_good_state(config: TrainingConfig, tmp_path: Path) -> None:
    trainer, path = Trainer(config, start_engine(config, "cpu")), tmp_path / STATE_FILE
    trainer.save(path)
    good = path.read_bytes()
    trainer.iteration = 7
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(good) // 2, limits[1]))
    try:
        with pytest.raises(StorageFull, match=r"iteration 7; .* still holds the last state"):
            trainer.save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert path.read_bytes() == good
    assert list(tmp_path.iterdir()) == [path]


def test_a_gradient_that_is_not_finite_names_its_batches_and_changes_nothing(
    config: TrainingConfig, scans: list[LabelledScan]
) -> None:
    trainer = Trainer(config, start_engine(config, "cpu"))
    trainer.hypernetwork.bias.register_hook(lambda gradient: gradient * float("inf"))
    before = trainer.hypernetwork.bias.detach().clone()
    batch = SpacingBatches(scans, config)[0]
    with pytest.raises(FloatingPointError, match=rf"gradient.*{batch.names[0]}"):
        trainer.step([batch])
    assert torch.equal(trainer.hypernetwork.bias, before)


def test_a_run_can_start_from_a_checkpoint_of_the_same_sizes(config: TrainingConfig, tmp_path: Path) -> None:
    first = Trainer(config, start_engine(config, "cpu"))
    path = tmp_path / "first.safetensors"
    save_checkpoint(path, first.hypernetwork, manifest_of(config))
    again = config.model_copy(update={"start_from": str(path), "seed": 5})
    second = Trainer(again, start_engine(again, "cpu"))
    assert torch.equal(second.hypernetwork.heads, first.hypernetwork.heads)
    smaller = again.model_copy(update={"hypernetwork": HypernetworkShape(hidden=(8, 3))})
    with pytest.raises(CheckpointInvalid, match=r"(?s)first\.safetensors does not fit .*size mismatch for hidden"):
        Trainer(smaller, start_engine(smaller, "cpu"))


PARALLEL = """
import sys
from pathlib import Path
import torch
from unet_factory_training.batches import SpacingBatches
from unet_factory_training.config import read_config
from unet_factory_training.datasets import find_subjects, read_scan
from unet_factory_training.engine import start_engine
from unet_factory_training.trainer import Trainer

config, out = read_config(Path(sys.argv[1])), Path(sys.argv[2])
torch.set_num_threads(1)
fabric = start_engine(config, "cpu")
trainer = Trainer(config, fabric)
batches = SpacingBatches([read_scan(s, config.dataset) for s in find_subjects(config.dataset, "train")], config)
trainer.step([batches[i] for i in range(4) if i % fabric.world_size == fabric.global_rank])
if fabric.is_global_zero:
    torch.save({name: p.grad for name, p in trainer.hypernetwork.named_parameters()}, out)
fabric.barrier()
"""


def test_two_processes_give_the_gradients_of_one(config: TrainingConfig, tmp_path: Path) -> None:
    """Four batches of four spacings: on one process one after the other, on two by torchrun two each (gloo)."""
    optimisation = config.optimisation.model_copy(
        update={"batches_per_step": 4, "precision": "float32", "clip_norm": None}
    )
    config_path, script = tmp_path / "config.yaml", tmp_path / "parallel.py"
    shared = config.model_copy(update={"optimisation": optimisation})
    config_path.write_text(yaml.safe_dump(shared.model_dump(mode="json")))
    script.write_text(PARALLEL)
    torchrun = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for launcher, name in ((torchrun, "two.pt"), ([sys.executable, "-W", "ignore"], "one.pt")):
        subprocess.run(
            [*launcher, str(script), str(config_path), str(tmp_path / name)],
            check=True,
            timeout=100,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
    one, two = (torch.load(tmp_path / name, weights_only=True) for name in ("one.pt", "two.pt"))
    for name, gradient in one.items():
        assert gradient.abs().sum() > 0, name
        torch.testing.assert_close(two[name], gradient, rtol=1e-4, atol=1e-7)
