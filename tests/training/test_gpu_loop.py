"""What makes steps on a GPU cheap, tried on a CPU as far as it can be: compiled networks and batches made ahead."""

import threading
from collections.abc import Iterator

import pytest
import torch

from unet_factory.domain.manifest import Architecture, HypernetworkShape, Pooling
from unet_factory.domain.spacing import SpacingGrid
from unet_factory.model.hypernetwork import Hypernetwork
from unet_factory_training import network
from unet_factory_training.ahead import made_ahead
from unet_factory_training.batch import Batch
from unet_factory_training.batches import SpacingBatches
from unet_factory_training.config import Execution, TrainingConfig
from unet_factory_training.datasets import LabelledScan
from unet_factory_training.network import SpacingConditionedUNet

GRID = SpacingGrid.from_mm(0.05, [(0.5, 3.5)] * 3)
ARCHITECTURE = Architecture(classes=3, channels=(4, 6, 6, 6), blocks=1, pooling=Pooling(anisotropy=2))
CPU = torch.device("cpu")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler warns of itself, and of weights that are no leaves
def test_compiled_steps_have_the_gradients_of_plain_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two extents, with the outputs of deep supervision; traced as on a GPU, run by PyTorch."""
    monkeypatch.setitem(network.COMPILATION, "cpu", {"dynamic": True, "backend": "eager"})
    drawn = [
        ((2, 1, 16, 16, 16), (1.0, 1.0, 1.0)),
        ((1, 1, 24, 16, 8), (1.0, 1.0, 3.0)),
        ((1, 1, 8, 16, 24), (2, 2, 2)),
    ]
    batches = [(torch.randn(shape, generator=torch.Generator().manual_seed(0)), mm) for shape, mm in drawn]
    plain, compiled = (list(gradients(execution, batches)) for execution in ("eager", "compiled"))
    for expected, found in zip(plain, compiled, strict=True):
        assert expected.keys() == found.keys()
        assert "outputs.0.weight" in found
        for name, gradient in expected.items():
            assert gradient.abs().sum() > 0, name
            torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)


def gradients(
    execution: Execution, batches: list[tuple[torch.Tensor, tuple[float, float, float]]]
) -> Iterator[dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    hypernetwork = Hypernetwork(ARCHITECTURE, HypernetworkShape(hidden=(8, 8)), GRID)
    supervised = SpacingConditionedUNet(hypernetwork, execution, deep_supervision=True)
    for images, mm in batches:
        supervised.zero_grad(set_to_none=True)
        sum(logits.square().mean() for logits in supervised(images, GRID.snap(mm))).backward()
        yield {name: parameter.grad for name, parameter in supervised.named_parameters() if parameter.grad is not None}


def test_batches_made_ahead_are_the_same_in_the_same_order(scans: list[LabelledScan], config: TrainingConfig) -> None:
    batches = SpacingBatches(scans, config)
    expected = [(batches[item],) for item in range(6)]
    found = list(made_ahead(((batches[item],) for item in range(6)), CPU))
    assert [batch.names for (batch,) in found] == [batch.names for (batch,) in expected]
    for (one,), (other,) in zip(found, expected, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)


def test_the_next_batch_is_made_while_one_is_used(scans: list[LabelledScan], config: TrainingConfig) -> None:
    """By another thread, and only one ahead: memory is bounded."""
    batch, made, second = SpacingBatches(scans, config)[0], list[str](), threading.Event()

    def shares() -> Iterator[tuple[Batch]]:
        for number in range(4):
            made.append(threading.current_thread().name)
            if number == 1:
                second.set()
            yield (batch,)

    ahead = made_ahead(shares(), CPU)
    next(ahead)
    assert second.wait(60)  # while the first is in our hands
    assert len(made) == 2
    assert all(name.startswith("batches-ahead") for name in made)
    assert len(list(ahead)) == 3


def test_what_goes_wrong_ahead_ends_the_run(scans: list[LabelledScan], config: TrainingConfig) -> None:
    def shares() -> Iterator[tuple[Batch]]:
        yield (SpacingBatches(scans, config)[0],)
        raise ValueError("a broken scan")

    ahead = made_ahead(shares(), CPU)
    next(ahead)
    with pytest.raises(ValueError, match="a broken scan"):
        next(ahead)
