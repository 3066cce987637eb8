"""Files: what is written is what is read, equal askers get equal bytes, and damage is found."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.func import functional_call

from unet_factory.domain.errors import CheckpointInvalid
from unet_factory.domain.manifest import Manifest
from unet_factory.domain.spacing import SnappedSpacing
from unet_factory.model.checkpoint import (
    load_checkpoint,
    load_unet,
    parse_unet,
    save_checkpoint,
    standalone_bytes,
)
from unet_factory.model.unet import empty_unet
from unet_factory.platform.manifest_file import read_manifest

SPACING = SnappedSpacing(1000, 500, 500)
OTHER_PACKAGES = (
    *("celery", "fastapi", "fsspec", "httpx", "lightning", "monai", "nibabel", "pandas", "prometheus_client"),
    *("pydantic_settings", "pydicom", "redis", "rich", "scipy", "stamina", "typer", "yaml"),
)


@pytest.fixture
def checkpoint_path(tiny_models: Path) -> Path:
    return tiny_models / "tiny.safetensors"


def test_round_trip(checkpoint_path: Path, tiny_manifest: Manifest, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(checkpoint_path)
    assert checkpoint.manifest == tiny_manifest == read_manifest(checkpoint_path)
    again = save_checkpoint(tmp_path / "again.safetensors", checkpoint.hypernetwork, checkpoint.manifest)
    assert again == checkpoint.digest
    assert [path.name for path in tmp_path.iterdir()] == ["again.safetensors"]


def test_half_precision_heads_change_the_weights_little(checkpoint_path: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(checkpoint_path)
    save_checkpoint(tmp_path / "half.safetensors", checkpoint.hypernetwork, checkpoint.manifest, heads="float16")
    half = load_checkpoint(tmp_path / "half.safetensors").hypernetwork.generate(SPACING)
    for name, tensor in checkpoint.hypernetwork.generate(SPACING).items():
        assert torch.allclose(tensor, half[name], atol=1e-4)


def test_standalone_equals_generated_in_place(checkpoint_path: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(checkpoint_path)
    file = tmp_path / "unet.safetensors"
    file.write_bytes(standalone_bytes(checkpoint, SPACING))
    unet = load_unet(file)
    volume = torch.randn(1, 1, 16, 16, 16)
    generated = checkpoint.hypernetwork.generate(SPACING)
    with torch.inference_mode():
        in_place = functional_call(empty_unet(checkpoint.manifest.architecture), generated, (volume,), strict=True)
        assert torch.equal(unet(volume), in_place)
    assert unet.manifest is not None
    assert unet.manifest.spacing == SPACING
    assert unet.manifest.checkpoint_digest == checkpoint.digest
    assert unet.manifest.labels == checkpoint.manifest.labels


def test_equal_askers_get_equal_bytes(checkpoint_path: Path) -> None:
    first, second = (standalone_bytes(load_checkpoint(checkpoint_path), SPACING) for _ in range(2))
    assert first == second
    assert standalone_bytes(load_checkpoint(checkpoint_path), SnappedSpacing(1000, 500, 550)) != first


def test_half_precision_standalone_is_half_the_size(checkpoint_path: Path) -> None:
    checkpoint = load_checkpoint(checkpoint_path)
    full, half = standalone_bytes(checkpoint, SPACING), standalone_bytes(checkpoint, SPACING, "float16")
    assert len(half) < 0.7 * len(full)
    exact, rounded = parse_unet(full).state_dict(), parse_unet(half).state_dict()
    for name, tensor in exact.items():
        assert torch.equal(tensor.half().float(), rounded[name])


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_truncated_checkpoint_is_refused(checkpoint_path: Path, tmp_path: Path, keep: int) -> None:
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(checkpoint_path.read_bytes()[:keep])
    with pytest.raises(CheckpointInvalid, match=r"broken\.safetensors"):
        load_checkpoint(broken)


def test_manifest_of_another_architecture_is_refused(checkpoint_path: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(checkpoint_path)
    wider = checkpoint.manifest.architecture.model_copy(update={"channels": (4, 16)})
    wrong = checkpoint.manifest.model_copy(update={"architecture": wider})
    save_checkpoint(tmp_path / "wrong.safetensors", checkpoint.hypernetwork, wrong)
    with pytest.raises(CheckpointInvalid, match="size mismatch"):
        load_checkpoint(tmp_path / "wrong.safetensors")


def test_damaged_standalone_is_refused(checkpoint_path: Path) -> None:
    blob = standalone_bytes(load_checkpoint(checkpoint_path), SPACING)
    for damaged in (b"", b"text", blob[:-7], blob[8:]):
        with pytest.raises(CheckpointInvalid):
            parse_unet(damaged)


def test_a_standalone_network_of_another_architecture_is_refused(checkpoint_path: Path) -> None:
    checkpoint = load_checkpoint(checkpoint_path)
    wider = checkpoint.manifest.architecture.model_copy(update={"channels": (4, 16)})
    wrong = replace(checkpoint, manifest=checkpoint.manifest.model_copy(update={"architecture": wider}))
    with pytest.raises(CheckpointInvalid, match="size mismatch"):
        parse_unet(standalone_bytes(wrong, SPACING))


def test_a_standalone_network_needs_torch_safetensors_and_pydantic_alone(checkpoint_path: Path, tmp_path: Path) -> None:
    """In a process that can import nothing else that this project is made of."""
    path = tmp_path / "unet.safetensors"
    path.write_bytes(standalone_bytes(load_checkpoint(checkpoint_path), SPACING))
    script = (
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({OTHER_PACKAGES}))\n"
        "import torch\n"
        "from unet_factory.model.checkpoint import load_unet\n"
        "print(tuple(load_unet(sys.argv[1])(torch.zeros(1, 1, 8, 8, 8)).shape))"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("(1, 3, 8, 8, 8)\n", 0), done.stderr
