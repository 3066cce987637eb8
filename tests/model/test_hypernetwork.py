"""The hypernetwork: weights are a smooth function of the spacing, and fit the topology exactly."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import functional_call

from unet_factory.domain.conditions import Condition
from unet_factory.domain.manifest import Architecture, HypernetworkShape, Parametrization
from unet_factory.domain.spacing import SnappedSpacing, SpacingGrid
from unet_factory.model.hypernetwork import Hypernetwork
from unet_factory.model.unet import empty_unet

ARCHITECTURE = Architecture(classes=3, channels=(4, 8), blocks=1)
GRID = SpacingGrid.from_mm(0.05, [(0.5, 3.5), (0.5, 3.5), (1.0, 10.0)])

parametrizations = pytest.mark.parametrize("parametrization", list(Parametrization))
spacings = st.builds(SnappedSpacing, *[st.integers(10, 70).map(lambda steps: steps * 50) for _ in range(3)])


def make(parametrization: Parametrization) -> Hypernetwork:
    torch.manual_seed(0)
    return Hypernetwork(ARCHITECTURE, HypernetworkShape(parametrization=parametrization, hidden=(8, 8)), GRID)


@parametrizations
def test_weights_fit_the_topology(parametrization: Parametrization) -> None:
    weights = make(parametrization).generate(SnappedSpacing(1000, 1000, 3000))
    logits = functional_call(empty_unet(ARCHITECTURE), weights, (torch.randn(2, 1, 8, 8, 4),), strict=True)
    assert logits.shape == (2, 3, 8, 8, 4)
    assert torch.isfinite(logits).all()


@parametrizations
def test_generation_is_the_forward_pass(parametrization: Parametrization) -> None:
    hypernetwork = make(parametrization)
    spacing = SnappedSpacing(1000, 500, 2500)
    trained = hypernetwork(torch.tensor(spacing.mm))
    for name, tensor in hypernetwork.generate(spacing).items():
        assert torch.equal(tensor, trained[name])


@settings(max_examples=30, deadline=None)
@given(spacings, spacings)
def test_paper_weights_stay_below_five_and_depend_on_spacing(first: SnappedSpacing, second: SnappedSpacing) -> None:
    hypernetwork = make(Parametrization.PAPER)
    one, two = hypernetwork.generate(first), hypernetwork.generate(second)
    assert max(float(tensor.abs().max()) for tensor in one.values()) < 5
    differs = any(not torch.equal(one[name], two[name]) for name in one)
    assert differs == (first != second)


def test_mip_starts_as_the_unet_itself() -> None:
    """Heads start small, so at first the spacing hardly matters and the weights are a U-Net's usual ones."""
    hypernetwork = make(Parametrization.MIP)
    fine, coarse = (hypernetwork.generate(SnappedSpacing(um, um, um)) for um in (1000, 3500))
    for name, tensor in fine.items():
        assert torch.allclose(tensor, coarse[name], atol=0.02)
        if name.endswith("norm.weight"):
            assert torch.allclose(tensor, torch.ones_like(tensor), atol=0.02)


@parametrizations
def test_every_parameter_is_trained(parametrization: Parametrization) -> None:
    """One batch reaches all of the hypernetwork: no head is cut off from the loss."""
    hypernetwork = make(parametrization)
    weights = hypernetwork(torch.tensor([1.0, 1.0, 3.0]))
    functional_call(empty_unet(ARCHITECTURE), weights, (torch.randn(1, 1, 8, 8, 8),)).square().mean().backward()
    for name, parameter in hypernetwork.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0 or not parameter.numel(), name


@parametrizations
def test_conditions_are_inputs_like_the_spacing(parametrization: Parametrization) -> None:
    """Weights depend on each of them, defaults stand for what is not said, and the baseline is told nothing."""
    torch.manual_seed(0)
    conditions = [Condition(name=name, minimum=0, maximum=9, step=1, default=4) for name in ("first", "second")]
    shape = HypernetworkShape(parametrization=parametrization, hidden=(8, 8))
    hypernetwork = Hypernetwork(ARCHITECTURE, shape, GRID, conditions)
    spacing = SnappedSpacing(1000, 1000, 3000)
    default, *others = (
        torch.cat([tensor.flatten() for tensor in hypernetwork.generate(spacing, given).values()])
        for given in ((4.0, 4.0), None, (5.0, 4.0), (4.0, 5.0))
    )
    assert torch.equal(default, others[0])
    for other in others[1:]:
        assert torch.equal(default, other) == (parametrization is Parametrization.CONSTANT)
