"""Kernels as functions of mm: what a resampled kernel does, and that networks start with such kernels."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional

from unet_factory.domain.errors import CheckpointInvalid
from unet_factory.domain.manifest import Architecture, HypernetworkShape, Parametrization, Pooling
from unet_factory.model.checkpoint import save_checkpoint
from unet_factory.model.hypernetwork import Hypernetwork
from unet_factory_training.config import TrainingConfig
from unet_factory_training.initial_kernels import resampled_kernel
from unet_factory_training.loop import manifest_of
from unet_factory_training.starting_point import initial_hypernetwork


def test_a_resampled_kernel_does_on_coarse_voxels_what_the_fine_one_does_between_them() -> None:
    """At each coarse voxel of an image that is linear between coarse voxels, along each axis by its own ratio."""
    generator = torch.Generator().manual_seed(0)
    kernel, coarse = (torch.randn(shape, generator=generator) for shape in ((2, 3, 3, 3, 3), (1, 3, 6, 6, 6)))
    steps = (2, 3, 1)
    sizes = [5 * step + 1 for step in steps]
    fine = functional.interpolate(coarse, size=sizes, mode="trilinear", align_corners=True)
    expected = functional.conv3d(fine, kernel, padding=1)[..., ::2, ::3, :]
    found = functional.conv3d(coarse, resampled_kernel(kernel, [1 / step for step in steps]), padding=1)
    inner = (slice(1, -1),) * 3
    torch.testing.assert_close(found[:, :, *inner], expected[:, :, *inner], rtol=1e-4, atol=1e-4)


def test_a_resampled_kernel_keeps_its_sum_and_changes_nothing_at_its_own_spacing() -> None:
    kernel = torch.randn((4, 2, 3, 3), generator=torch.Generator().manual_seed(0))
    assert torch.equal(resampled_kernel(kernel, [1, 1]), kernel)
    torch.testing.assert_close(resampled_kernel(kernel, [0.3, 0.8]).sum((2, 3)), kernel.sum((2, 3)))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """A small MLP learns here, which several threads would only keep waiting."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def resampled(config: TrainingConfig, **fields: object) -> TrainingConfig:
    deep = Architecture(classes=3, channels=(4, 8, 8), blocks=1, pooling=Pooling(anisotropy=2, coarsest_mm=8))
    wide = HypernetworkShape(hidden=(32, 32, 8))
    update = {"architecture": deep, "hypernetwork": wide, "initial_kernels": "resampled", **fields}
    return config.model_copy(update=update)


def test_networks_start_with_the_kernels_of_the_finest_spacing_resampled(config: TrainingConfig) -> None:
    """Much closer to them than equal kernels are, which fit all spacings as well as one set can."""
    torch.manual_seed(0)
    common = initial_hypernetwork(resampled(config, initial_kernels="common"))
    torch.manual_seed(0)
    started = initial_hypernetwork(resampled(config))
    name, far, near = "encoders.0.0.conv.weight", 0.0, 0.0
    parts = common.bias.detach().split([shape.numel() for shape in common.weight_shapes.values()])
    finest = dict(zip(common.weight_shapes, parts, strict=True))[name].view(common.weight_shapes[name])
    for mm in ((0.5, 0.5, 0.5), (1.0, 1.0, 1.0), (2.0, 2.0, 2.0), (3.5, 3.5, 3.5), (1.0, 1.0, 3.0), (3.0, 1.0, 0.5)):
        wanted = resampled_kernel(finest, [0.5 / axis_mm for axis_mm in mm])
        spacing = config.grid.snap(mm)
        far += float((finest - wanted).square().sum())
        near += float((started.generate(spacing)[name] - wanted).square().sum())
    assert near < 0.2 * far
    untouched = "ups.0.conv.weight"
    first, second = (started.generate(config.grid.snap((mm, mm, mm)))[untouched] for mm in (0.5, 3.5))
    assert torch.equal(first, second)


def test_a_finished_network_of_one_spacing_can_be_resampled(config: TrainingConfig, tmp_path: Path) -> None:
    """Its kernels stay where voxels are as fine as its own; ones that depend on the spacing already are refused."""
    constant = HypernetworkShape(parametrization=Parametrization.CONSTANT)
    at_one_mm = {"hypernetwork": constant, "trained_range_mm": ((1, 1),) * 3, "initial_kernels": "common"}
    fixed, path = resampled(config, **at_one_mm), tmp_path / "fs.safetensors"
    finished = Hypernetwork(fixed.architecture, constant, fixed.grid)
    save_checkpoint(path, finished, manifest_of(fixed))
    started = initial_hypernetwork(resampled(config, start_from=str(path)))
    name = "encoders.0.0.conv.weight"
    own = finished.generate(fixed.grid.snap((1, 1, 1)))[name]
    fine, coarse = (started.generate(config.grid.snap((mm, mm, mm)))[name] for mm in (0.5, 3.0))
    thrice = resampled_kernel(own, [1 / 3] * 3)
    assert (fine - own).norm() < 0.5 * (fine - thrice).norm()
    assert (coarse - thrice).norm() < 0.5 * (coarse - own).norm()

    ranging = resampled(config, initial_kernels="common")
    save_checkpoint(path, initial_hypernetwork(ranging), manifest_of(ranging))
    with pytest.raises(CheckpointInvalid, match="depend on the spacing already"):
        initial_hypernetwork(resampled(config, start_from=str(path)))


def test_only_base_weights_with_heads_can_start_so(config: TrainingConfig) -> None:
    values = {**config.model_dump(), "initial_kernels": "resampled"}
    values["hypernetwork"] = {**values["hypernetwork"], "parametrization": "paper"}
    with pytest.raises(ValidationError, match=r"hypernetwork\.parametrization is paper; only mip can start so"):
        TrainingConfig.model_validate(values)
