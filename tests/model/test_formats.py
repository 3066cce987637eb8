"""One network in every format: the same labels from ONNX Runtime, torch.export, the plain file and MONAI's bundle."""

import io
import json
import subprocess
import sys
import zipfile
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import nibabel
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor

from tests.fixtures.project import HIPPOCAMPUS, MODELS
from unet_factory.domain.postprocessing import Postprocessing
from unet_factory.model.checkpoint import Checkpoint, load_checkpoint, parse_unet, standalone_bytes
from unet_factory.model.formats import in_format
from unet_factory.model.inference import pad_to_divisors
from unet_factory.model.postprocessing import postprocess
from unet_factory.model.preprocessing import zscore
from unet_factory.volume import read_volume

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # the exporters warn of themselves

IDENTITY = "weights:of:a:test"
AGREEMENT = 0.9999
FLOAT16_AGREEMENT = 0.999
ALONE = """
import sys, torch
sys.modules["unet_factory"] = None
sys.path.insert(0, sys.argv[1])
from plain_unet import load_plain_unet
unet = load_plain_unet(sys.argv[2])
torch.save(unet(torch.load(sys.argv[3])), sys.argv[4])
print(unet.divisors, unet.manifest["model"], sorted({"numpy", "pydantic", "monai", "nibabel"} & sys.modules.keys()))
"""

RUN_BUNDLE = """
import sys
from monai.bundle import run
run(config_file="configs/inference.json", image=sys.argv[1], output_dir="out")
"""


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return load_checkpoint(MODELS / "hippocampus-mr.safetensors")


@pytest.fixture(scope="module")
def scans() -> list[Tensor]:
    """Two real scans of different shapes, as the network takes them: (r, a, s)."""
    paths = sorted((HIPPOCAMPUS / "images").glob("*.nii.gz"))[:2]
    volumes = [pad_to_divisors(zscore(torch.from_numpy(read_volume(path).data)), (8, 8, 8)) for path in paths]
    assert volumes[0].shape != volumes[1].shape
    return volumes


def standalone(checkpoint: Checkpoint, dtype: str = "float32") -> bytes:
    return standalone_bytes(checkpoint, checkpoint.manifest.grid.snap((1.0, 1.0, 1.0)), dtype)


def agreement(logits: Tensor, expected: Tensor) -> float:
    return float((logits.argmax(dim=1) == expected.argmax(dim=1)).float().mean())


def test_onnx_runtime_gives_the_same_labels_at_any_shape(checkpoint: Checkpoint, scans: list[Tensor]) -> None:
    blobs = {dtype: in_format(standalone(checkpoint, dtype), "onnx", IDENTITY) for dtype in ("float32", "float16")}
    assert len(blobs["float16"]) < 0.55 * len(blobs["float32"])
    unet = parse_unet(standalone(checkpoint))
    for dtype, least in (("float32", AGREEMENT), ("float16", FLOAT16_AGREEMENT)):
        session = onnxruntime.InferenceSession(blobs[dtype], providers=["CPUExecutionProvider"])
        for scan in scans:
            (logits,) = session.run(None, {"volume": scan[None, None].numpy()})
            assert agreement(torch.from_numpy(logits), unet(scan[None, None])) >= least
    facts = {entry.key: entry.value for entry in onnx.load_from_string(blobs["float32"]).metadata_props}
    assert (facts["spacing_mm"], facts["orientation"], facts["divisors"]) == ("1,1,1", "RAS", "8,8,8")
    assert json.loads(facts["labels"])["1"] == "anterior hippocampus"
    assert facts["checkpoint_digest"] == f"sha256:{checkpoint.digest}"
    assert IDENTITY.encode() in blobs["float32"]


def test_a_second_network_of_the_topology_has_its_own_weights_and_equal_askers_get_equal_bytes(
    checkpoint: Checkpoint, scans: list[Tensor]
) -> None:
    other = standalone_bytes(checkpoint, checkpoint.manifest.grid.snap((1.0, 1.0, 1.3)))
    for file_format in ("onnx", "pt2", "bundle"):
        first, again = (in_format(other, file_format, IDENTITY) for _ in range(2))
        assert first == again or file_format == "pt2"
    session = onnxruntime.InferenceSession(in_format(other, "onnx", IDENTITY), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"volume": scans[0][None, None].numpy()})
    assert agreement(torch.from_numpy(logits), parse_unet(other)(scans[0][None, None])) >= AGREEMENT


@pytest.mark.parametrize(("dtype", "least"), [("float32", AGREEMENT), ("float16", FLOAT16_AGREEMENT)])
def test_an_exported_program_gives_the_same_labels_at_any_shape(
    checkpoint: Checkpoint, scans: list[Tensor], dtype: str, least: float
) -> None:
    blob = in_format(standalone(checkpoint, dtype), "pt2", IDENTITY)
    facts = {"model": ""}
    program = torch.export.load(io.BytesIO(blob), extra_files=facts)
    unet = parse_unet(standalone(checkpoint))
    for scan in scans:
        assert agreement(program.module()(scan[None, None]), unet(scan[None, None])) >= least
    assert facts["model"] == "hippocampus-mr"
    assert IDENTITY.encode() in blob


def test_the_plain_file_builds_the_network_from_its_weights_alone(
    checkpoint: Checkpoint, scans: list[Tensor], tmp_path: Path
) -> None:
    (tmp_path / "plain_unet.py").write_bytes((files("unet_factory") / "model" / "plain_unet.py").read_bytes())
    (tmp_path / "unet.safetensors").write_bytes(standalone(checkpoint))
    torch.save(scans[0][None, None].clone(), tmp_path / "volume.pt")
    paths = (tmp_path, tmp_path / "unet.safetensors", tmp_path / "volume.pt", tmp_path / "logits.pt")
    done = subprocess.run([sys.executable, "-c", ALONE, *map(str, paths)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(8, 8, 8) hippocampus-mr ['numpy']" or done.stdout.strip().endswith("[]")
    with torch.enable_grad():  # as there: the same convolution
        expected = parse_unet(standalone(checkpoint))(scans[0][None, None])
    assert torch.equal(torch.load(tmp_path / "logits.pt"), expected)


def postprocessed(checkpoint: Checkpoint, *keep_largest: tuple[int, ...]) -> Checkpoint:
    """The model, as if it wanted this of its label maps."""
    update = {"postprocessing": Postprocessing(keep_largest=keep_largest)}
    return replace(checkpoint, manifest=checkpoint.manifest.model_copy(update=update))


def bundle_of(checkpoint: Checkpoint) -> zipfile.ZipFile:
    return zipfile.ZipFile(io.BytesIO(in_format(standalone(checkpoint), "bundle", IDENTITY)))


@pytest.mark.parametrize("groups", [(), ((1, 2),), ((1, 2), (2,))])
def test_a_bundle_keeps_the_components_that_the_service_keeps(
    checkpoint: Checkpoint, groups: tuple[tuple[int, ...], ...]
) -> None:
    from monai.bundle import ConfigParser

    with bundle_of(postprocessed(checkpoint, *groups)) as archive:
        parser = ConfigParser(json.loads(archive.read("configs/inference.json")))
        required = json.loads(archive.read("configs/metadata.json"))["required_packages_version"]
    steps = parser.get("postprocessing")["transforms"]
    kept = [n for n, step in enumerate(steps) if step["_target_"] == "KeepLargestConnectedComponentd"]
    assert len(kept) == len(groups)
    assert ("scikit-image" in required) == bool(groups)
    labels = torch.from_numpy(np.random.default_rng(0).choice(3, (12, 10, 8), p=(0.9, 0.06, 0.04)).astype(np.uint8))
    item = {"pred": labels[None].clone()}
    for n in kept:
        item = parser.get_parsed_content(f"postprocessing#transforms#{n}")(item)
    expected = postprocess(labels.clone(), Postprocessing(keep_largest=groups))
    assert torch.equal(torch.as_tensor(item["pred"])[0], expected)
    assert torch.equal(expected, labels) == (not groups)


def test_monai_runs_the_bundle_on_a_scan_and_the_labels_lie_on_its_grid(
    checkpoint: Checkpoint, scans: list[Tensor], tmp_path: Path
) -> None:
    checkpoint = postprocessed(checkpoint, (1, 2))
    with bundle_of(checkpoint) as archive:
        archive.extractall(tmp_path)
    scan = sorted((HIPPOCAMPUS / "images").glob("*.nii.gz"))[0]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", RUN_BUNDLE, str(scan)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    labels = nibabel.Nifti1Image.from_filename(tmp_path / "out" / f"{scan.name.removesuffix('.nii.gz')}_seg.nii.gz")
    assert np.allclose(labels.affine, nibabel.Nifti1Image.from_filename(scan).affine)
    expected = parse_unet(standalone(checkpoint))(scans[0][None, None])[0].argmax(dim=0).to(torch.uint8)
    expected = postprocess(expected, checkpoint.manifest.postprocessing)
    found = np.asarray(labels.dataobj)
    assert (found == expected.numpy()[tuple(slice(extent) for extent in found.shape)]).mean() >= AGREEMENT
