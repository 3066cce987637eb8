"""The checkpoints that are measured: those that ship, and one of the paper's own size with random weights."""

from pathlib import Path

import torch

from unet_factory.domain.manifest import Architecture, HypernetworkShape, Label, Manifest, Parametrization
from unet_factory.domain.spacing import SpacingGrid
from unet_factory.model.checkpoint import save_checkpoint
from unet_factory.model.hypernetwork import Hypernetwork

SHIPPED = Path("models")
HIPPOCAMPUS, HEART = SHIPPED / "hippocampus-mr.safetensors", SHIPPED / "heart-mr.safetensors"

_BUILT = Path("build/benchmarks")


def paper_size(heads: str = "float32") -> Path:
    """A checkpoint as for the paper's brain tumours (169.7 million parameters, 679 MB); made once, then kept.

    ``heads`` stored as float16 halve it.
    """
    path = _BUILT / ("paper" if heads == "float32" else f"paper-{heads}") / "paper.safetensors"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        manifest = _paper_manifest()
        torch.manual_seed(0)
        hypernetwork = Hypernetwork(manifest.architecture, manifest.hypernetwork, manifest.grid)
        save_checkpoint(path, hypernetwork, manifest, heads=heads)
    return path


def _paper_manifest() -> Manifest:
    return Manifest(
        name="paper",
        architecture=Architecture(classes=2, channels=(16, 32, 64, 128), blocks=3),
        hypernetwork=HypernetworkShape(parametrization=Parametrization.PAPER, hidden=(10, 10, 50)),
        grid=SpacingGrid.from_mm(0.05, [(0.5, 3.5)] * 3),
        labels=(Label(value=0, name="background"), Label(value=1, name="tumour core")),
        window=(128, 128, 128),
        licence="CC0-1.0",
    )
