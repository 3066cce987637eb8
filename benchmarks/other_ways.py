"""How others would segment a scan of any spacing: with a network of one fixed spacing, to which each scan is resampled,
and back.

Each way gets the same U-Net as ours, as the file that a factory hands out for the fixed spacing, and windows as large
as nnU-Net would plan them for the scans that the model was trained on, where the model's own are not smaller. The rest
is left at the package's own settings.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.children import Contestant, contestant
from unet_factory.domain.spacing import SpacingMm
from unet_factory.domain.windows import round_up
from unet_factory.model.checkpoint import load_checkpoint, standalone_bytes
from unet_factory.model.plain_unet import load_plain_unet

NNUNET = Path("build/nnunet/bin/python")
NO_NNUNET = f"there is no {NNUNET}: make nnunet"


class FixedNetwork(NamedTuple):
    """A network's file, the spacing (R, A, S) that it is for, and its window in voxels."""

    file: Path
    spacing_mm: SpacingMm
    window: tuple[int, int, int]
    classes: int


def fixed_network(model: Path, spacing_mm: SpacingMm, folder: Path) -> FixedNetwork:
    """The network that ``model`` makes for ``spacing_mm``, written to ``folder``."""
    checkpoint = load_checkpoint(model)
    manifest, snapped = checkpoint.manifest, checkpoint.manifest.grid.snap(spacing_mm)
    file = folder / f"{manifest.name}.safetensors"
    file.write_bytes(standalone_bytes(checkpoint, snapped))
    seen, most = manifest.seen, manifest.window_at(snapped)
    assert seen is not None, "shipped models say what they were trained on"
    planned = (span.median / mm for span, mm in zip(seen.field_of_view_mm, spacing_mm, strict=True))
    divisors = load_plain_unet(file).divisors
    r, a, s = (
        min(round_up(round(extent), divisor), round_up(limit, divisor))
        for extent, limit, divisor in zip(planned, most, divisors, strict=True)
    )
    return FixedNetwork(file, spacing_mm, (r, a, s), manifest.architecture.classes)


def monai_way(network: FixedNetwork, scan: Path, result: Path) -> Callable[[], object]:
    """MONAI's transforms, sliding window and inverse, from file to file; for a process of its own."""
    from monai.inferers.utils import sliding_window_inference
    from monai.transforms.compose import Compose
    from monai.transforms.intensity.dictionary import NormalizeIntensityd
    from monai.transforms.io.dictionary import LoadImaged, SaveImaged
    from monai.transforms.post.dictionary import AsDiscreted, Invertd
    from monai.transforms.spatial.dictionary import Orientationd, Spacingd
    from monai.transforms.utility.dictionary import EnsureChannelFirstd

    unet = load_plain_unet(network.file)
    before = Compose(
        [
            LoadImaged("image"),
            EnsureChannelFirstd("image"),
            Orientationd("image", axcodes="RAS", labels=None),
            Spacingd("image", pixdim=network.spacing_mm),
            NormalizeIntensityd("image"),
        ]
    )
    after = Compose(
        [
            Invertd("logits", transform=before, orig_keys="image", nearest_interp=False),
            AsDiscreted("logits", argmax=True),
            SaveImaged(
                "logits", output_dir=result.parent, output_postfix="monai", separate_folder=False, print_log=False
            ),
        ]
    )

    def segment() -> object:
        with torch.inference_mode():
            data = before({"image": scan})
            windows = sliding_window_inference(data["image"][None], network.window, 1, unet, mode="gaussian")
            data["logits"] = windows[0]
            return after(data)

    return segment


@contextmanager
def monai(network: FixedNetwork, scan: Path, folder: Path) -> Iterator[Contestant]:
    with contestant(partial(monai_way, network, scan, folder / "monai.nii.gz")) as running:
        yield running


class NnUnet:
    """nnU-Net's predictor and export in its own environment, spoken to by lines."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def run(self) -> object:
        return self._asked("run")

    def peak_bytes(self) -> int:
        """What segmenting once more adds to its process."""
        return self._asked("peak")

    def _asked(self, order: str) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{order}\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("answer "):
                return int(line.split()[1])
        raise RuntimeError("nnU-Net's process ended")


@contextmanager
def nnunet(network: FixedNetwork, scan: Path, folder: Path) -> Iterator[NnUnet]:
    """The environment must be there."""
    told = {
        "network": str(network.file),
        "plain_unet": str(Path(sys.modules[load_plain_unet.__module__].__file__ or "").resolve()),
        "spacing_mm": network.spacing_mm,
        "window": network.window,
        "classes": network.classes,
        "scan": str(scan),
        "result": str(folder / "nnunet"),
    }
    process = subprocess.Popen(
        [NNUNET, "-W", "ignore", Path(__file__).with_name("nnunet_way.py"), json.dumps(told)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        yield NnUnet(process)
    finally:
        process.kill()
        process.wait()
