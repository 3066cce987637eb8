"""The manifest: what a checkpoint or a standalone network is, so that its file alone is enough to use it.

Travels as JSON in the metadata of a safetensors file; ``GET /models`` answers from it. Nothing here needs torch.
"""

from enum import StrEnum
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from unet_factory.frozen import Frozen
from unet_factory.spacing import SnappedSpacing, SpacingGrid


class Architecture(Frozen):
    """The topology of the U-Net (paper section 4.1); everything that decides the shapes of its weights.

    ``channels`` holds one width per level, finest first; ``blocks`` convolution blocks stand on each level besides
    those that change level.
    """

    dimensions: Literal[2, 3] = 3
    in_channels: int = Field(default=1, ge=1)
    classes: int = Field(ge=2)
    channels: tuple[int, ...] = (16, 32, 64, 128)
    blocks: int = Field(default=3, ge=1)

    @property
    def downs(self) -> int:
        return len(self.channels) - 1

    @property
    def divisor(self) -> int:
        """Every spatial extent of the input must be a multiple of this (2**downs)."""
        return int(2**self.downs)


class Parametrization(StrEnum):
    """How the hypernetwork's output becomes weights.

    ``PAPER``: MLP on the spacing in mm, weights = 5*tanh(heads) (paper section 4.1).
    ``MIP``: magnitude-invariant: spacing encoded as cos/sin, weights = learned base + heads (Ortiz et al., ICLR 2024).
    """

    PAPER = "paper"
    MIP = "mip"


class HypernetworkShape(Frozen):
    parametrization: Parametrization = Parametrization.MIP
    hidden: tuple[int, ...] = (10, 10, 50)


class Label(Frozen):
    """One value of the label map. ``code`` and ``modifier`` are (coding scheme, code value, meaning), as in DICOM."""

    value: int = Field(ge=0)
    name: str
    code: tuple[str, str, str] | None = None
    modifier: tuple[str, str, str] | None = None


class Normalisation(Frozen):
    """How intensities are prepared: z-score over all voxels of the volume."""

    method: Literal["zscore"] = "zscore"


class Preprocessing(Frozen):
    """How a volume becomes the network's input, the same for every spacing."""

    orientation: Literal["RAS"] = "RAS"
    normalisation: Normalisation = Normalisation()


class Manifest(Frozen):
    """A checkpoint: one hypernetwork and all that is needed to train, serve and cite it."""

    format: Literal["unet-factory-checkpoint/1"] = "unet-factory-checkpoint/1"
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")
    architecture: Architecture
    hypernetwork: HypernetworkShape = HypernetworkShape()
    grid: SpacingGrid
    labels: tuple[Label, ...]
    preprocessing: Preprocessing = Preprocessing()
    window: tuple[int, int, int] = (96, 96, 96)
    modality: str = "MR"
    licence: str
    citation: str = ""
    card: str = ""
    metrics: tuple[dict[str, Any], ...] = ()
    training: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _labels_match_classes(self) -> Self:
        values = [label.value for label in self.labels]
        if values != list(range(self.architecture.classes)):
            raise ValueError(
                f"labels have the values {values}, the architecture has {self.architecture.classes} classes: "
                f"one label for each of 0..{self.architecture.classes - 1}, background first"
            )
        return self


class StandaloneManifest(Frozen):
    """A standalone U-Net for one spacing: everything that its user needs besides the tensors."""

    format: Literal["unet-factory-unet/1"] = "unet-factory-unet/1"
    model: str
    checkpoint_digest: str
    architecture: Architecture
    snapped_um: tuple[int, int, int]
    dtype: Literal["float32", "float16"] = "float32"
    out_of_range: bool = False
    labels: tuple[Label, ...]
    preprocessing: Preprocessing
    window: tuple[int, int, int]
    licence: str
    citation: str = ""

    @property
    def spacing(self) -> SnappedSpacing:
        return SnappedSpacing(*self.snapped_um)

    @classmethod
    def of(cls, manifest: Manifest, digest: str, snapped: SnappedSpacing) -> Self:
        return cls(
            model=manifest.name,
            checkpoint_digest=digest,
            architecture=manifest.architecture,
            snapped_um=tuple(snapped),
            out_of_range=not manifest.grid.contains(snapped),
            labels=manifest.labels,
            preprocessing=manifest.preprocessing,
            window=manifest.window,
            licence=manifest.licence,
            citation=manifest.citation,
        )
