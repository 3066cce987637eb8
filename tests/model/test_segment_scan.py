"""Segmenting a scan: equal to plain PyTorch, indifferent to orientation, honest about what was resampled."""

from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from unet_factory.domain.errors import NoContrast, SpacingOutOfRange, VolumeTooLarge
from unet_factory.domain.manifest import Architecture
from unet_factory.domain.spacing import OutsidePolicy, SpacingGrid, SpacingMm, SpacingPlan, plan_spacing
from unet_factory.model.checkpoint import load_checkpoint, load_unet, standalone_bytes
from unet_factory.model.inference import Execution, Network, segment_scan
from unet_factory.model.unet import UNet
from unet_factory.volume import read_volume, write_labelmap

GRID = SpacingGrid.from_mm(0.05, [(0.5, 3.5)] * 3)
CPU = Execution(torch.device("cpu"), window=(32, 32, 32), divisors=(2, 2, 2))


@pytest.fixture(scope="module")
def unet(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> UNet:
    """The network for 1 x 0.5 x 2 mm as anyone loads it from its file."""
    path = tmp_path_factory.mktemp("unet") / "unet.safetensors"
    checkpoint = load_checkpoint(tiny_models / "tiny.safetensors")
    path.write_bytes(standalone_bytes(checkpoint, GRID.snap((1.0, 0.5, 2.0))))
    return load_unet(path)


@settings(max_examples=40, deadline=None)
@given(shape=st.tuples(*[st.integers(1, 24)] * 3).filter(lambda shape: shape != (1, 1, 1)), seed=st.integers(0, 99999))
def test_a_native_scan_gets_what_plain_pytorch_gives(unet: UNet, shape: tuple[int, int, int], seed: int) -> None:
    scan = noise(shape, seed)
    plan = plan_spacing((1.0, 0.5, 2.0), GRID, OutsidePolicy.REJECT)
    segmented = labels_of(unet, scan, plan)
    assert segmented.dtype == np.uint8
    np.testing.assert_array_equal(segmented, plain_pytorch(unet, scan))


@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_network_of_many_classes_gives_what_plain_pytorch_gives(dimensions: int) -> None:
    """Its last layer is applied apart from the rest."""
    torch.manual_seed(5)
    unet = UNet(Architecture(dimensions=dimensions, classes=30, channels=(4, 6), blocks=1)).eval()
    scan = noise((17, 20, 9), 5)
    plan = plan_spacing((1.0, 0.5, 2.0), GRID, OutsidePolicy.REJECT)
    segmented = labels_of(unet, scan, plan, replace(CPU, divisors=unet.divisors))
    assert len(np.unique(segmented)) > 5
    assert (segmented == plain_pytorch(unet, scan)).mean() > 0.999  # rounding may decide between two classes


@pytest.mark.parametrize("values", [np.zeros(27), np.full(27, 7.3), np.linspace(-3e38, 3e38, 27)])
def test_a_scan_without_contrast_is_refused(unet: UNet, values: NDArray[np.float64]) -> None:
    """A network sees anatomy even in nothing."""
    plan = plan_spacing((1.0, 0.5, 2.0), GRID, OutsidePolicy.REJECT)
    with pytest.raises(NoContrast, match="must differ"):
        labels_of(unet, values.reshape(3, 3, 3).astype(np.float32), plan)


@pytest.mark.parametrize("axes", ["LPS", "SAR", "IRP", "ASR", "PIL"])
def test_the_result_does_not_depend_on_how_the_file_is_oriented(unet: UNet, tmp_path: Path, axes: str) -> None:
    ras = nibabel.Nifti1Image(noise((40, 36, 20), 1), np.diag([1.0, 0.5, 2.0, 1.0]))
    turn = nibabel.orientations.ornt_transform(
        nibabel.orientations.axcodes2ornt("RAS"), nibabel.orientations.axcodes2ornt(axes)
    )
    turned = ras.as_reoriented(turn)
    expected = nibabel.Nifti1Image(label_file(unet, ras, tmp_path), ras.affine).as_reoriented(turn)
    assert len(np.unique(expected.dataobj)) > 1
    np.testing.assert_array_equal(label_file(unet, turned, tmp_path), np.asarray(expected.dataobj))


@pytest.mark.parametrize(
    ("native_mm", "requested_mm", "outside", "working_mm", "snapped_mm", "out_of_range", "resampled"),
    [
        ((1.02, 0.98, 3.0), None, "reject", (1.02, 0.98, 3.0), (1.0, 1.0, 3.0), False, False),
        ((0.4, 1.02, 5.0), None, "clamp", (0.5, 1.02, 3.5), (0.5, 1.0, 3.5), True, True),
        ((0.4, 1.02, 5.0), None, "extrapolate", (0.4, 1.02, 5.0), (0.4, 1.0, 5.0), True, False),
        ((0.49, 1.0, 1.0), None, "reject", (0.49, 1.0, 1.0), (0.5, 1.0, 1.0), False, False),
        ((1.02, 1.0, 1.0), (1.0, 1.0, 2.01), "reject", (1.02, 1.0, 2.0), (1.0, 1.0, 2.0), False, True),
        ((0.4, 1.0, 1.0), (2.0, 2.0, 2.0), "reject", (2.0, 2.0, 2.0), (2.0, 2.0, 2.0), False, True),
        ((1.0, 1.0, 1.0), (9.0, 1.0, 1.0), "clamp", (3.5, 1.0, 1.0), (3.5, 1.0, 1.0), True, True),
        ((1.0, 1.0, 1.0), (0.5, 1.0, 1.0), "reject", (0.5, 1.0, 1.0), (0.5, 1.0, 1.0), False, True),
    ],
)
def test_only_the_axes_that_need_it_are_resampled(
    native_mm: SpacingMm,
    requested_mm: SpacingMm | None,
    outside: OutsidePolicy,
    working_mm: SpacingMm,
    snapped_mm: SpacingMm,
    out_of_range: bool,
    resampled: bool,
) -> None:
    plan = plan_spacing(native_mm, GRID, OutsidePolicy(outside), requested_mm)
    assert (plan.working_mm, plan.snapped.mm) == (working_mm, snapped_mm)
    assert (plan.out_of_range, plan.resampled) == (out_of_range, resampled)


def test_reject_refuses_an_untrained_spacing() -> None:
    with pytest.raises(SpacingOutOfRange):
        plan_spacing((0.4, 1.0, 1.0), GRID, OutsidePolicy.REJECT)


@settings(max_examples=20, deadline=None)
@given(native_mm=st.tuples(*[st.floats(0.2, 6.0)] * 3), classes=st.integers(2, 4))
def test_a_resampled_scan_keeps_its_grid_and_its_anatomy(native_mm: SpacingMm, classes: int) -> None:
    """A network that only looks at intensity must find the same regions at whatever spacing it works."""
    extent = tuple(max(4, round(24 / mm)) for mm in native_mm)
    height = np.linspace(-1, 1, extent[0], dtype=np.float32)[:, None, None] * np.ones(extent, np.float32)
    plan = plan_spacing(native_mm, GRID, OutsidePolicy.CLAMP)
    seen: list[tuple[int, ...]] = []

    def intensity_bands(window: Tensor) -> Tensor:
        seen.append(tuple(window.shape[2:]))
        centres = torch.linspace(-1.5, 1.5, classes)[None, :, None, None, None]
        return -50 * (window - centres) ** 2

    segmented = labels_of(intensity_bands, height, plan)
    assert segmented.shape == extent
    normalised = (height - height.mean()) / height.std()
    expected = np.abs(normalised[None] - np.linspace(-1.5, 1.5, classes)[:, None, None, None]).argmin(axis=0)
    layers = max(1.0, plan.working_mm[0] / native_mm[0]) * (classes - 1)
    assert (segmented != expected).mean() * extent[0] <= 1.5 * layers


def test_smaller_windows_on_the_host_see_the_whole_scan() -> None:
    """What a worker falls back to when memory runs out changes the windows, not the grid."""
    scan, plan = noise((40, 24, 9), 0), plan_spacing((1.0, 1.0, 1.0), GRID, OutsidePolicy.CLAMP)

    def sign(window: Tensor) -> Tensor:
        assert max(window.shape) <= largest
        return torch.cat([-window, window], dim=1)

    largest = 32
    whole = labels_of(sign, scan, plan)
    largest = 16
    np.testing.assert_array_equal(labels_of(sign, scan, plan, CPU.reduced()), whole)
    smallest = CPU
    for _ in range(6):
        smallest = smallest.reduced()
    assert smallest.window == (4, 4, 4)


def test_a_working_spacing_that_makes_the_scan_too_large_is_refused() -> None:
    plan = plan_spacing((3.5, 3.5, 3.5), GRID, OutsidePolicy.CLAMP, (0.5, 0.5, 0.5))
    with pytest.raises(VolumeTooLarge):
        segment_scan(lambda window: window, torch.zeros(10, 10, 10), plan, CPU, max_voxels=70**3 - 1)


def labels_of(
    network: Network, scan: NDArray[np.float32], plan: SpacingPlan, execution: Execution = CPU
) -> NDArray[np.uint8]:
    labels: NDArray[np.uint8] = segment_scan(network, torch.from_numpy(scan), plan, execution).numpy()
    return labels


def noise(shape: tuple[int, ...], seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(100, 20, size=shape).astype(np.float32)


def plain_pytorch(unet: UNet, scan: NDArray[np.float32]) -> NDArray[np.uint8]:
    """What the documentation of a standalone network tells its user to do, for a scan within one window."""
    volume = torch.from_numpy(scan)
    volume = (volume - volume.mean()) / volume.std(correction=0).clamp(min=1e-6)
    padding = [-extent % divisor for extent, divisor in zip(scan.shape, unet.divisors, strict=True)]
    if all(extent <= divisor for extent, divisor in zip(scan.shape, unet.divisors, strict=True)):
        padding[0] += unet.divisors[0]
    padded = functional.pad(volume, [0, padding[2], 0, padding[1], 0, padding[0]])
    with torch.inference_mode():
        classes = unet(padded[None, None])[0].argmax(dim=0)
    r, a, s = scan.shape
    labels: NDArray[np.uint8] = classes[:r, :a, :s].to(torch.uint8).numpy()
    return labels


def label_file(unet: UNet, image: nibabel.Nifti1Image, folder: Path) -> NDArray[np.uint8]:
    """From an image to the voxels of its label map, through files."""
    nibabel.save(image, folder / "scan.nii.gz")
    volume = read_volume(folder / "scan.nii.gz")
    plan = plan_spacing(volume.spacing_ras_mm, GRID, OutsidePolicy.REJECT)
    labels = labels_of(unet, volume.data, plan)
    write_labelmap(folder / "labels.nii.gz", labels, folder / "scan.nii.gz")
    return np.asarray(nibabel.Nifti1Image.from_filename(folder / "labels.nii.gz").dataobj)
