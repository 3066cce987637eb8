"""Networks as MONAI bundles: a zip archive with weights, the code of the network, and a configuration that runs it."""

import io
import json
import zipfile
from importlib.resources import files
from typing import Any

import torch

from unet_factory.domain.manifest import StandaloneManifest, divisors_of
from unet_factory.domain.postprocessing import Postprocessing
from unet_factory.model.formats.facts import facts_of
from unet_factory.platform.manifest_file import read_standalone_manifest

_MONAI_VERSION = "1.6.1"  # the one that the tests run bundles with
_EPOCH = (1980, 1, 1, 0, 0, 0)  # no time of writing: the same network is the same bytes

_SEGMENT = '''"""Segments the scans of a data set, in windows no larger than those of the training."""

import torch
from monai.inferers import sliding_window_inference


def run(dataset, network, window, postprocessing):
    """``postprocessing`` gets each item with the logits (classes, r, a, s) as ``pred``."""
    for item in dataset:
        image = item["image"]
        extents = [min(whole, part) for whole, part in zip(image.shape[1:], window)]
        with torch.no_grad():
            logits = sliding_window_inference(image[None], extents, 1, network, overlap=0.5, mode="gaussian")
        postprocessing({**item, "pred": logits[0]})
'''

_README = """# {model} at {spacing_mm} mm (R,A,S)

A standalone network of U-Net factory, made for scans of this voxel spacing, as a MONAI bundle. It does not resample:
give it scans of about this spacing, or fetch the network of theirs. Besides MONAI it needs {packages}.

    python -m monai.bundle run --config_file configs/inference.json --image scan.nii.gz --output_dir .

Labels: {labels}. Not a medical device: for research, not for diagnosis.
Licence of the weights: {licence}. {citation}
"""


def bundle_bytes(standalone: bytes, identity: str) -> bytes:
    """The archive; its files lie at the top, as ``monai.bundle`` expects them in the bundle's folder."""
    manifest = read_standalone_manifest(standalone)
    facts = facts_of(manifest, identity)
    code = (files("unet_factory") / "model" / "plain_unet.py").read_bytes()
    contents = {
        "configs/metadata.json": _json(_metadata(manifest, facts)),
        "configs/inference.json": _json(_inference(manifest)),
        "models/unet.safetensors": standalone,
        "scripts/__init__.py": b"",
        "scripts/plain_unet.py": code,
        "scripts/segment.py": _SEGMENT.encode(),
        "docs/README.md": _README.format(**facts, packages=", ".join(_required_packages(manifest))).encode(),
        "LICENSE": f"{manifest.licence}\n{manifest.citation}\n".encode(),
    }
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as bundle:  # stored: weights hardly compress
        for name, content in contents.items():
            bundle.writestr(zipfile.ZipInfo(name, _EPOCH), content)
    return archive.getvalue()


def _inference(manifest: StandaloneManifest) -> dict[str, Any]:
    return {
        "imports": ["$import torch"],
        "bundle_root": ".",
        "image": "scan.nii.gz",
        "output_dir": "$@bundle_root + '/output'",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "window": _whole_windows(manifest),
        "network_def": {
            "_target_": "scripts.plain_unet.load_plain_unet",
            "path": "$@bundle_root + '/models/unet.safetensors'",
        },
        "network": "$@network_def.to(@device)",
        "preprocessing": {"_target_": "Compose", "transforms": _preprocessing(manifest)},
        "dataset": {"_target_": "Dataset", "data": [{"image": "@image"}], "transform": "@preprocessing"},
        "postprocessing": {"_target_": "Compose", "transforms": _postprocessing(manifest)},
        "run": [
            {
                "_target_": "scripts.segment.run",
                "dataset": "@dataset",
                "network": "@network",
                "window": "@window",
                "postprocessing": "@postprocessing",
            }
        ],
    }


def _preprocessing(manifest: StandaloneManifest) -> list[dict[str, Any]]:
    return [
        {"_target_": "LoadImaged", "keys": "image", "image_only": True},
        {"_target_": "EnsureChannelFirstd", "keys": "image"},
        {"_target_": "Orientationd", "keys": "image", "axcodes": manifest.preprocessing.orientation},
        {"_target_": "NormalizeIntensityd", "keys": "image"},
        {"_target_": "DivisiblePadd", "keys": "image", "k": list(_divisors(manifest)), "method": "end"},
        {"_target_": "EnsureTyped", "keys": "image", "device": "@device", "dtype": "$torch.float32"},
    ]


def _postprocessing(manifest: StandaloneManifest) -> list[dict[str, Any]]:
    return [
        {
            "_target_": "Invertd",
            "keys": "pred",
            "orig_keys": "image",
            "transform": "@preprocessing",
            "nearest_interp": False,
        },
        {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
        *_largest_components(manifest.postprocessing),
        {
            "_target_": "SaveImaged",
            "keys": "pred",
            "output_dir": "@output_dir",
            "output_postfix": "seg",
            "output_dtype": "uint8",
            "separate_folder": False,
            "resample": False,
        },
    ]


def _largest_components(postprocessing: Postprocessing) -> list[dict[str, Any]]:
    """Of equally large components, MONAI may keep another one than the service does."""
    return [
        {
            "_target_": "KeepLargestConnectedComponentd",
            "keys": "pred",
            "applied_labels": list(group),
            "is_onehot": False,
            "independent": False,
        }
        for group in postprocessing.keep_largest
    ]


def _required_packages(manifest: StandaloneManifest) -> dict[str, str]:
    components = {"scikit-image": "0.26"} if manifest.postprocessing.keep_largest else {}
    return {"nibabel": "5", "safetensors": "0.8"} | components


def _metadata(manifest: StandaloneManifest, facts: dict[str, str]) -> dict[str, Any]:
    """As MONAI's schema of bundles wants it, with the network's own facts beside."""
    shape = [f"{divisor}*n" for divisor in _divisors(manifest)]
    labels = {str(label.value): label.name for label in manifest.labels}
    common = {"format": "magnitude", "num_channels": manifest.architecture.in_channels, "spatial_shape": shape}
    return {
        "version": "1.0.0",
        "changelog": {"1.0.0": "made by U-Net factory"},
        "monai_version": _MONAI_VERSION,
        "pytorch_version": torch.__version__.partition("+")[0],
        "required_packages_version": _required_packages(manifest),
        "name": f"{manifest.model} at {facts['spacing_mm']} mm",
        "task": "segmentation",
        "description": f"Segmentation at a voxel spacing of {facts['spacing_mm']} mm (R,A,S)",
        "authors": "The U-Net factory authors",
        "copyright": manifest.licence,
        "network_data_format": {
            "inputs": {
                "image": {
                    **common,
                    "type": "image",
                    "modality": "MR",
                    "dtype": "float32",
                    "value_range": [],
                    "is_patch_data": True,
                    "channel_def": {"0": "image"},
                }
            },
            "outputs": {
                "pred": {
                    **common,
                    "type": "image",
                    "format": "segmentation",
                    "num_channels": manifest.architecture.classes,
                    "dtype": "float32",
                    "value_range": [],
                    "is_patch_data": True,
                    "channel_def": labels,
                }
            },
        },
        "unet_factory": facts,
    }


def _divisors(manifest: StandaloneManifest) -> tuple[int, ...]:
    return divisors_of(manifest.strides or manifest.architecture.strides(manifest.spacing))


def _whole_windows(manifest: StandaloneManifest) -> list[int]:
    """The window, rounded up to what the network takes."""
    return [-(-part // divisor) * divisor for part, divisor in zip(manifest.window, _divisors(manifest), strict=True)]


def _json(content: dict[str, Any]) -> bytes:
    return json.dumps(content, indent=2).encode()
