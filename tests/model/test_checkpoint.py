"""Files: what is written is what is read, equal askers get equal bytes, and damage is found."""

import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load, save
from torch.func import functional_call

from unet_factory.domain.conditions import Condition
from unet_factory.domain.errors import CheckpointInvalid
from unet_factory.domain.manifest import Manifest
from unet_factory.domain.spacing import SnappedSpacing
from unet_factory.model.checkpoint import (
    load_checkpoint,
    load_unet,
    parse_unet,
    replace_manifest,
    save_checkpoint,
    standalone_bytes,
)
from unet_factory.model.hypernetwork import Hypernetwork
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


def test_a_checkpoint_is_read_to_generate_not_to_train(checkpoint_path: Path) -> None:
    checkpoint = load_checkpoint(checkpoint_path)
    assert checkpoint.digest == hashlib.sha256(checkpoint_path.read_bytes()).hexdigest()
    assert not checkpoint.hypernetwork.training
    assert not any(parameter.requires_grad for parameter in checkpoint.hypernetwork.parameters())
    unet = parse_unet(standalone_bytes(checkpoint, SPACING))
    assert not unet.training
    assert not any(parameter.requires_grad for parameter in unet.parameters())
    assert {parameter.dtype for parameter in unet.parameters()} == {torch.float32}


def test_only_the_heads_are_stored_and_kept_in_half_precision(checkpoint_path: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(checkpoint_path)
    path = tmp_path / "half.safetensors"
    save_checkpoint(path, checkpoint.hypernetwork, checkpoint.manifest, heads="float16")
    with safe_open(path, framework="pt") as file:
        kinds = {name: file.get_tensor(name).dtype for name in file.keys()}  # noqa: SIM118 (not a mapping)
    assert kinds.pop("heads") == torch.float16
    assert set(kinds.values()) == {torch.float32}
    state = load_checkpoint(path).hypernetwork.state_dict()
    assert {name: tensor.dtype for name, tensor in state.items()} == kinds | {"heads": torch.float16}


def test_a_network_is_loaded_to_the_device_wanted(checkpoint_path: Path, tmp_path: Path) -> None:
    """Here to one that computes shapes only."""
    path = tmp_path / "unet.safetensors"
    path.write_bytes(standalone_bytes(load_checkpoint(checkpoint_path), SPACING))
    for unet in (load_unet(path, "meta"), load_unet(str(path), torch.device("meta"))):
        assert {parameter.device.type for parameter in unet.parameters()} == {"meta"}
    assert {parameter.device.type for parameter in load_unet(path).parameters()} == {"cpu"}


def test_a_standalone_network_is_made_for_its_conditions(tiny_manifest: Manifest, tmp_path: Path) -> None:
    field = Condition(name="field_strength_t", minimum=1, maximum=3, step=0.5, default=2)
    manifest = tiny_manifest.model_copy(update={"conditions": (field,)})
    torch.manual_seed(0)
    hypernetwork = Hypernetwork(manifest.architecture, manifest.hypernetwork, manifest.grid, manifest.conditions)
    save_checkpoint(tmp_path / "told.safetensors", hypernetwork, manifest)
    checkpoint = load_checkpoint(tmp_path / "told.safetensors")
    for conditions, expected in ((None, 2.0), ((2.0,), 2.0), ((3.0,), 3.0)):
        unet = parse_unet(standalone_bytes(checkpoint, SPACING, conditions=conditions))
        assert unet.manifest is not None
        assert unet.manifest.conditions == {field.name: expected}
        for name, tensor in hypernetwork.generate(SPACING, (expected,)).items():
            assert torch.equal(unet.state_dict()[name], tensor)
    default, strong = (standalone_bytes(checkpoint, SPACING, conditions=(tesla,)) for tesla in (2.0, 3.0))
    assert not torch.equal(*(parse_unet(blob).state_dict()["head.weight"] for blob in (default, strong)))


def test_the_manifest_of_a_standalone_network_tells_its_precision(checkpoint_path: Path) -> None:
    for dtype in ("float32", "float16"):
        blob = standalone_bytes(load_checkpoint(checkpoint_path), SPACING, dtype)
        manifest = parse_unet(blob).manifest
        assert manifest is not None
        assert manifest.dtype == dtype
        assert {str(tensor.dtype) for tensor in load(blob).values()} == {f"torch.{dtype}"}


def test_half_precision_heads_change_the_weights_little(checkpoint_path: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(checkpoint_path)
    save_checkpoint(tmp_path / "half.safetensors", checkpoint.hypernetwork, checkpoint.manifest, heads="float16")
    half = load_checkpoint(tmp_path / "half.safetensors").hypernetwork.generate(SPACING)
    for name, tensor in checkpoint.hypernetwork.generate(SPACING).items():
        assert torch.allclose(tensor, half[name], atol=1e-4)


@pytest.mark.parametrize("rows", [1000, 2**15])
def test_heads_widened_piece_by_piece_give_the_weights_of_heads_widened_at_once(
    checkpoint_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    monkeypatch.setattr("unet_factory.model.hypernetwork._BLOCK_ROWS", rows)
    checkpoint = load_checkpoint(checkpoint_path)
    save_checkpoint(tmp_path / "half.safetensors", checkpoint.hypernetwork, checkpoint.manifest, heads="float16")
    half = load_checkpoint(tmp_path / "half.safetensors").hypernetwork
    weights = half.generate(SPACING)
    assert half.heads.dtype == torch.float16
    widened = half.float().generate(SPACING)
    assert half.heads.dtype == torch.float32
    for name, tensor in weights.items():
        torch.testing.assert_close(tensor, widened[name], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("heads", ["float32", "float16"])
def test_a_network_is_the_same_bytes_on_any_number_of_threads(
    checkpoint_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, heads: str
) -> None:
    """And making it leaves each thread the number that it had."""
    monkeypatch.setattr("unet_factory.model.hypernetwork._BLOCK_ROWS", 1000)
    path, before = tmp_path / "stored.safetensors", torch.get_num_threads()
    original = load_checkpoint(checkpoint_path)
    save_checkpoint(path, original.hypernetwork, original.manifest, heads=heads)
    checkpoint, blobs = load_checkpoint(path), set()
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            blobs.add(standalone_bytes(checkpoint, SPACING))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert len(blobs) == 1


def test_a_block_that_cannot_be_made_is_an_error_whichever_thread_makes_it(
    checkpoint_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unet_factory.model.hypernetwork._BLOCK_ROWS", 1000)
    hypernetwork = load_checkpoint(checkpoint_path).hypernetwork
    hypernetwork.heads = torch.nn.Parameter(hypernetwork.heads[:, 1:].contiguous(), requires_grad=False)
    with pytest.raises(RuntimeError, match="size mismatch"):
        hypernetwork.generate(SPACING)


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
        assert rounded[name].dtype == torch.float32
        assert torch.equal(tensor.half().float(), rounded[name])


def test_another_manifest_leaves_the_tensors_as_they_are(checkpoint_path: Path, tmp_path: Path) -> None:
    """In another file or in the same one."""
    path, before = tmp_path / "other.safetensors", load(checkpoint_path.read_bytes())
    for licence, source in (("CC-BY-4.0", checkpoint_path), ("MIT", path)):
        manifest = read_manifest(source).model_copy(update={"licence": licence})
        digest = replace_manifest(source, manifest, path)
        assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
        assert read_manifest(path) == manifest
        after = load(path.read_bytes())
        assert set(after) == set(before)
        assert all(
            torch.equal(after[name], tensor) and after[name].dtype == tensor.dtype for name, tensor in before.items()
        )
    assert read_manifest(checkpoint_path).licence == "CC0-1.0"
    path.write_bytes(b"no safetensors")
    with pytest.raises(CheckpointInvalid, match=r"checkpoint other\.safetensors"):
        replace_manifest(path, manifest, path)


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


def test_a_checkpoint_without_one_of_its_tensors_is_refused(checkpoint_path: Path, tmp_path: Path) -> None:
    tensors = load(checkpoint_path.read_bytes())
    with safe_open(checkpoint_path, framework="pt") as file:
        metadata = file.metadata()
    del tensors["bias"]
    (tmp_path / "less.safetensors").write_bytes(save(tensors, metadata))
    with pytest.raises(CheckpointInvalid, match=r"less\.safetensors.*[\s\S]*Missing key"):
        load_checkpoint(tmp_path / "less.safetensors")


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
