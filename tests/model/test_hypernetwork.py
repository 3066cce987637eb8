"""The hypernetwork: weights are a smooth function of the spacing, and fit the topology exactly."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import functional_call

from unet_factory.domain.conditions import Condition
from unet_factory.domain.manifest import (
    Architecture,
    HypernetworkShape,
    Label,
    Manifest,
    Parametrization,
    Pooling,
    Preprocessing,
)
from unet_factory.domain.spacing import SnappedSpacing, SpacingGrid
from unet_factory.model.checkpoint import load_checkpoint, save_checkpoint
from unet_factory.model.hypernetwork import Hypernetwork
from unet_factory.model.unet import UNet, empty_unet

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
        torch.testing.assert_close(tensor, trained[name].detach(), rtol=1e-6, atol=2e-6)


@settings(max_examples=30, deadline=None)
@given(spacings, spacings)
def test_paper_weights_are_five_tanh_of_a_linear_function_of_the_features(
    first: SnappedSpacing, second: SnappedSpacing
) -> None:
    """One matrix product, cut into tensors in the order of the state dict; other spacings give other weights."""
    hypernetwork = make(Parametrization.PAPER)
    one, two = hypernetwork.generate(first), hypernetwork.generate(second)
    features = hypernetwork.features(torch.tensor(first.mm))
    expected = 5 * torch.tanh(hypernetwork.heads @ features + hypernetwork.bias)
    assert list(one) == list(empty_unet(ARCHITECTURE).state_dict())
    torch.testing.assert_close(torch.cat([tensor.flatten() for tensor in one.values()]), expected.detach())
    assert any(not torch.equal(one[name], two[name]) for name in one) == (first != second)


def test_a_single_number_of_the_output_is_a_single_weight() -> None:
    """The bias counts from 0: each tensor holds its own part of the count, row by row."""
    hypernetwork = make(Parametrization.CONSTANT)
    with torch.no_grad():
        hypernetwork.heads.zero_()
        hypernetwork.bias.copy_(torch.arange(len(hypernetwork.bias)))
    place = 0
    for name, tensor in hypernetwork.generate(SnappedSpacing(1000, 1000, 3000)).items():
        assert tensor.shape == empty_unet(ARCHITECTURE).state_dict()[name].shape
        assert tensor.flatten().tolist() == list(range(place, place + tensor.numel()))
        place += tensor.numel()
    assert place == len(hypernetwork.bias)


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


def test_the_strides_are_told_or_not() -> None:
    """Either side of where they jump: with them the input jumps too, without them it is the spacing's alone."""
    following = ARCHITECTURE.model_copy(update={"pooling": Pooling(coarsest_mm=3)})
    below, above = (torch.tensor([mm, mm, mm]) for mm in (1.5, 1.55))
    for told, jump in ((True, 1.0), (False, 0.0)):
        seen = Hypernetwork(following, HypernetworkShape(hidden=(), told_strides=told), GRID)
        change = (seen.features(below) - seen.features(above)).abs()
        assert float(change[:6].max()) < 0.1
        assert float(change[6:].max() if told else 0) == jump
        assert len(change) == (6 + 3 * following.downs if told else 6)


@pytest.mark.parametrize("parametrization", [Parametrization.PAPER, Parametrization.MIP])
def test_centred_features_change_about_zero(parametrization: Parametrization) -> None:
    """Over drawn spacings: mean near 0, the wanted deviation, whatever the MLP gives."""
    torch.manual_seed(0)
    shape = HypernetworkShape(parametrization=parametrization, hidden=(16, 12), centred=0.1)
    centred = Hypernetwork(ARCHITECTURE, shape, GRID)
    low, high = (torch.tensor(ends) for ends in zip(*GRID.range_mm, strict=True))
    drawn = low * (high / low) ** torch.rand(400, 3)
    features = torch.stack([centred.features(spacing) for spacing in drawn]).detach()
    varying = features.std(dim=0) > 1e-6
    assert varying.sum() > 4
    assert float(features.mean(dim=0).abs().max()) < 0.03
    deviations = features.std(dim=0)[varying]
    assert float(deviations.median()) == pytest.approx(0.1, abs=0.01)
    assert float(deviations.max()) < 0.2


def test_a_checkpoint_of_centred_features_generates_what_was_trained(tmp_path: Path) -> None:
    """Though used without gradients first, it can be trained on, too."""
    torch.manual_seed(0)
    shape = HypernetworkShape(hidden=(16, 12), centred=0.1)
    centred, spacing = Hypernetwork(ARCHITECTURE, shape, GRID), SnappedSpacing(1000, 1000, 3000)
    manifest = Manifest(
        name="centred",
        architecture=ARCHITECTURE,
        hypernetwork=shape,
        grid=GRID,
        labels=tuple(Label(value=value, name=f"label {value}") for value in range(ARCHITECTURE.classes)),
        preprocessing=Preprocessing(),
        licence="CC0-1.0",
    )
    save_checkpoint(tmp_path / "centred.safetensors", centred, manifest)
    loaded = load_checkpoint(tmp_path / "centred.safetensors").hypernetwork
    weights = loaded.generate(spacing)
    for name, tensor in centred.generate(spacing).items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-5, atol=1e-7)
    torch.cat([tensor.flatten() for tensor in centred(torch.tensor(spacing.mm)).values()]).square().sum().backward()
    assert all(parameter.grad is not None for parameter in centred.parameters())


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


FOLLOWING = ARCHITECTURE.model_copy(update={"channels": (4, 8, 8), "pooling": Pooling(anisotropy=2)})
FIELD = Condition(name="field_strength_t", minimum=1, maximum=3, step=0.5, default=2)


def test_conditions_are_encoded_linearly_by_the_quarter_circle() -> None:
    """A third of the range is 30 degrees, all of it 90; under ``PAPER`` it is the fraction itself."""
    conditions = [Condition(name=name, minimum=1, maximum=4, step=1, default=2) for name in ("first", "second")]
    low = torch.tensor([ends[0] for ends in GRID.range_mm])
    mip = Hypernetwork(ARCHITECTURE, HypernetworkShape(hidden=()), GRID, conditions)
    encoded = [1, 1, 1, 0, 0, 0, 0.866025, 0, 0.5, 1]
    assert mip.features(low, (2.0, 4.0)).tolist() == pytest.approx(encoded, abs=1e-6)
    paper_shape = HypernetworkShape(parametrization=Parametrization.PAPER, hidden=())
    paper = Hypernetwork(ARCHITECTURE, paper_shape, GRID, conditions)
    assert paper.features(low).tolist() == pytest.approx([0.5, 0.5, 1.0, 1 / 3, 1 / 3])


def test_strides_are_told_where_they_follow_the_spacing() -> None:
    """1 for a halved axis, 0 for one that is left alone, level by level; nothing where they are always the same."""
    hypernetwork = Hypernetwork(FOLLOWING, HypernetworkShape(hidden=()), GRID)
    assert hypernetwork.features(torch.tensor([1.0, 1.0, 3.0])).tolist()[6:] == [1, 1, 0, 1, 1, 1]
    assert hypernetwork.features(torch.tensor([1.0, 1.0, 1.0])).tolist()[6:] == [1] * 6
    plain = Hypernetwork(ARCHITECTURE, HypernetworkShape(hidden=()), GRID)
    assert len(plain.features(torch.tensor([1.0, 1.0, 3.0]))) == 6
    paper = HypernetworkShape(parametrization=Parametrization.PAPER, hidden=())
    assert len(Hypernetwork(FOLLOWING, paper, GRID).features(torch.tensor([1.0, 1.0, 3.0]))) == 3


def test_an_axis_of_one_trained_spacing_is_no_division_by_zero() -> None:
    grid = SpacingGrid.from_mm(0.05, [(0.5, 3.5), (0.5, 3.5), (1.0, 1.0)])
    features = Hypernetwork(ARCHITECTURE, HypernetworkShape(hidden=()), grid).features(torch.tensor([0.5, 0.5, 1.0]))
    assert features.tolist() == pytest.approx([1, 1, 1, 0, 0, 0])


def test_a_basis_lies_between_the_features_and_the_heads() -> None:
    torch.manual_seed(0)
    hypernetwork = Hypernetwork(ARCHITECTURE, HypernetworkShape(hidden=(8, 6), basis=3), GRID)
    assert hypernetwork.heads.shape == (len(hypernetwork.bias), 3)
    plain = Hypernetwork(ARCHITECTURE, HypernetworkShape(hidden=(8, 6)), GRID)
    plain.hidden.load_state_dict(hypernetwork.hidden.state_dict())
    spacing = torch.tensor([1.0, 2.0, 3.0])
    assert isinstance(hypernetwork.basis, torch.nn.Linear)
    torch.testing.assert_close(hypernetwork.features(spacing), hypernetwork.basis(plain.features(spacing)))


def test_the_network_for_a_spacing_has_its_weights_conditions_and_strides() -> None:
    torch.manual_seed(0)
    hypernetwork = Hypernetwork(FOLLOWING, HypernetworkShape(hidden=(8, 8)), GRID, [FIELD])
    with torch.no_grad():
        hypernetwork.heads.mul_(100)
    spacing = SnappedSpacing(1000, 1000, 3000)
    unet = hypernetwork.unet(spacing, (3.0,))
    assert unet.strides == ((2, 2, 1), (2, 2, 2))
    assert not unet.training
    for name, tensor in hypernetwork.generate(spacing, (3.0,)).items():
        assert torch.equal(tensor, unet.state_dict()[name])
        assert not tensor.requires_grad
    assert not torch.equal(unet.state_dict()["head.weight"], hypernetwork.unet(spacing).state_dict()["head.weight"])


@pytest.mark.parametrize("conditions", [(), (FIELD,)])
@parametrizations
def test_all_is_computed_where_the_hypernetwork_lies(
    parametrization: Parametrization, conditions: tuple[Condition, ...]
) -> None:
    """On a device other than the CPU: here one that computes shapes only."""
    shape = HypernetworkShape(parametrization=parametrization, hidden=(8,))
    hypernetwork = Hypernetwork(ARCHITECTURE, shape, GRID, conditions).to("meta")
    assert {tensor.device.type for tensor in hypernetwork.generate(SnappedSpacing(1000, 1000, 3000)).values()} == {
        "meta"
    }


def test_initial_weights() -> None:
    """``PAPER``: as a linear layer, uniform within 1 / sqrt(features). ``MIP``: as a U-Net, heads of 0.001."""
    paper = make(Parametrization.PAPER)
    for parameter in (paper.heads.detach(), paper.bias.detach()):
        bound = 1 / 8**0.5
        assert float(parameter.min()) == pytest.approx(-bound, rel=0.01)
        assert float(parameter.max()) == pytest.approx(bound, rel=0.01)
        assert float(parameter.mean()) == pytest.approx(0, abs=0.02)
    mip = make(Parametrization.MIP)
    assert float(mip.heads.detach().std()) == pytest.approx(1e-3, rel=0.05)
    assert float(mip.heads.detach().mean()) == pytest.approx(0, abs=5e-5)
    sizes = [tensor.numel() for tensor in UNet(ARCHITECTURE).state_dict().values()]
    for name, part in zip(UNet(ARCHITECTURE).state_dict(), mip.bias.detach().split(sizes), strict=True):
        if name.endswith("norm.weight"):
            assert bool((part == 1).all()), name
        elif name.endswith("norm.bias"):
            assert not part.any(), name
        else:
            assert 0 < float(part.std()) < 0.5, name
