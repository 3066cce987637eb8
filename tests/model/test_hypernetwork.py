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


def test_paper_weights_are_five_tanh_of_the_heads() -> None:
    """By hand, and far into saturation: 5 tanh(0.5) = 2.3106, 5 tanh(2) = 4.8201, 5 tanh(-9) = -5.0000."""
    hypernetwork = make(Parametrization.PAPER)
    with torch.no_grad():
        hypernetwork.heads.zero_()
        hypernetwork.bias.copy_(
            torch.tensor([0.5, 2.0, -9.0]).repeat(len(hypernetwork.bias) // 3 + 1)[: len(hypernetwork.bias)]
        )
    flat = torch.cat([tensor.flatten() for tensor in hypernetwork.generate(SnappedSpacing(1000, 1000, 3000)).values()])
    assert flat[:3].tolist() == pytest.approx([2.310586, 4.820138, -5.0], abs=1e-5)


def test_the_spacing_is_encoded_by_its_logarithm() -> None:
    """Cosine and sine of an angle from 0 at the fine end to a right angle at the coarse one, 45 degrees at the
    geometric mean of the range; without hidden layers the heads see just that.
    """
    hypernetwork = Hypernetwork(ARCHITECTURE, HypernetworkShape(hidden=()), GRID)
    low, high = (torch.tensor(ends) for ends in zip(*GRID.range_mm, strict=True))
    for spacing, cosine, sine in ((low, 1, 0), ((low * high).sqrt(), 0.70711, 0.70711), (high, 0, 1)):
        assert hypernetwork.features(spacing).tolist() == pytest.approx([cosine] * 3 + [sine] * 3, abs=1e-4)


@pytest.mark.parametrize("parametrization", [Parametrization.PAPER, Parametrization.MIP])
def test_features_are_a_relu_network_of_the_encoding(parametrization: Parametrization) -> None:
    torch.manual_seed(3)
    encoding = Hypernetwork(ARCHITECTURE, HypernetworkShape(parametrization=parametrization, hidden=()), GRID)
    hypernetwork = make(parametrization)
    spacing = torch.tensor([0.7, 2.0, 6.0])
    expected, cut = encoding.features(spacing), 0
    for layer in hypernetwork.hidden:
        assert isinstance(layer, torch.nn.Linear)
        before = layer.weight @ expected + layer.bias
        expected, cut = before.clamp(min=0), cut + int((before < 0).sum())
    assert cut > 0
    assert torch.allclose(hypernetwork.features(spacing), expected, atol=1e-6)


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
