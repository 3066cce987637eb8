"""The manifest: what a checkpoint or a standalone network is, so that its file alone is enough to use it.

Travels as JSON in the metadata of a safetensors file; ``GET /models`` answers from it. Nothing here needs torch.
"""

import math
from collections.abc import Sequence
from enum import StrEnum
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from unet_factory.domain.conditions import Condition, SnappedConditions, named_conditions
from unet_factory.domain.dice_by_spacing import DiceBySpacing
from unet_factory.domain.errors import MalformedRequest, MemberInvalid
from unet_factory.domain.frozen import Frozen
from unet_factory.domain.plausibility import AXES, Axis, Seen
from unet_factory.domain.postprocessing import AS_GIVEN, Postprocessing
from unet_factory.domain.spacing import SnappedSpacing, SpacingGrid, SpacingMm
from unet_factory.domain.windows import WINDOW_OVERLAP

CodeTriple = tuple[str, str, str]
"""Coding scheme, code value and meaning, as in DICOM."""

_AXES = 3  # of a volume

Strides = tuple[tuple[int, ...], ...]
"""Per change of level, finest first, the stride (1 or 2) along each axis."""


def divisors_of(strides: Strides) -> tuple[int, ...]:
    """Per axis of a volume (R, A, S): its extent must be a multiple of this.

    1 along an axis that is never halved, such as S for a network of two dimensions, which takes slice by slice.
    """
    divisors = [math.prod(along_axis) for along_axis in zip(*strides, strict=True)]
    return tuple(divisors + [1] * (_AXES - len(divisors)))


class Pooling(Frozen):
    """Which axes are halved where the level changes. The shapes of weights do not depend on it, so it may follow the
    spacing; it depends on nothing else. The default halves every axis every time, as the paper does.

    ``anisotropy``: an axis is halved only while its voxels are shorter than this many times the shortest axis's.
    ``coarsest_mm``: and only while they do not become longer than this.
    ``planned_at_mm``: decide for this spacing whatever the scan's, as a network of one fixed topology does.
    """

    anisotropy: float | None = Field(default=None, gt=1)
    coarsest_mm: float | None = Field(default=None, gt=0)
    planned_at_mm: SpacingMm | None = None

    @property
    def follows_spacing(self) -> bool:
        return (self.anisotropy, self.coarsest_mm) != (None, None) and self.planned_at_mm is None

    def strides(self, spacing_mm: Sequence[float], changes: int) -> Strides:
        """The strides at each of ``changes`` changes of level for a scan of ``spacing_mm``."""
        current = list(self.planned_at_mm or spacing_mm)
        strides = []
        for _ in range(changes):
            longest = math.inf if self.anisotropy is None else self.anisotropy * min(current)
            halved = [mm < longest and 2 * mm <= (self.coarsest_mm or math.inf) for mm in current]
            strides.append(tuple(2 if half else 1 for half in halved))
            current = [2 * mm if half else mm for mm, half in zip(current, halved, strict=True)]
        return tuple(strides)


class Architecture(Frozen):
    """The topology of the U-Net (paper section 4.1); everything that decides the shapes of its weights.

    ``dimensions``: 3, or 2 for a network of slices: it is told the spacing within a slice (R, A) and segments a volume
    slice by slice along S; a single slice is a volume of one voxel along S.

    ``channels`` holds one width per level, finest first; ``blocks`` convolution blocks stand on each level besides
    those that change level.
    """

    dimensions: Literal[2, 3] = 3
    in_channels: int = Field(default=1, ge=1)
    classes: int = Field(ge=2)
    channels: tuple[int, ...] = (16, 32, 64, 128)
    blocks: int = Field(default=3, ge=1)
    pooling: Pooling = Pooling()

    @property
    def downs(self) -> int:
        return len(self.channels) - 1

    def strides(self, spacing: SnappedSpacing) -> Strides:
        """How the network for ``spacing`` changes levels."""
        return self.pooling.strides(spacing.mm[: self.dimensions], self.downs)


class Parametrization(StrEnum):
    """How the hypernetwork's output becomes weights.

    ``PAPER``: MLP on the spacing in mm, weights = 5*tanh(heads) (paper section 4.1).
    ``MIP``: magnitude-invariant: spacing encoded as cos/sin, weights = learned base + heads (Ortiz et al., ICLR 2024).
    ``CONSTANT``: the same learned weights for every spacing: the baselines of the paper (section 4.1) in this form.
    """

    PAPER = "paper"
    MIP = "mip"
    CONSTANT = "constant"


class HypernetworkShape(Frozen):
    """``hidden``: widths of the MLP on the spacing. ``basis``: in compressed checkpoints, how many
    linear combinations of the last hidden features the heads get instead of the features themselves.
    ``told_strides``: under ``MIP``, whether the MLP sees the strides where they follow the spacing. ``centred``: the
    features are brought to mean 0 and this standard deviation over the trained range, so that the bias is the mean
    network and the heads hold only what changes; None leaves them as the MLP gives them.
    """

    parametrization: Parametrization = Parametrization.MIP
    hidden: tuple[int, ...] = (10, 10, 50)
    basis: int | None = Field(default=None, ge=1)
    told_strides: bool = True
    centred: float | None = Field(default=None, gt=0)


class Member(Frozen):
    """One checkpoint of an ensemble: the sha256 of the file that it came from, and the shape of its hypernetwork."""

    digest: str
    hypernetwork: HypernetworkShape


class Label(Frozen):
    """One value of the label map, and what DICOM results say of it: ``code`` is the type of what is segmented.

    Without a ``category`` (DICOM PS3.16 CID 7150) it counts as an anatomical structure. ``region`` is where it lies,
    for something that is not itself anatomy, such as a tumour.
    """

    value: int = Field(ge=0)
    name: str
    code: CodeTriple | None = None
    modifier: CodeTriple | None = None
    category: CodeTriple | None = None
    region: CodeTriple | None = None


class Normalisation(Frozen):
    """How intensities are prepared: z-score over all voxels of the volume."""

    method: Literal["zscore"] = "zscore"


class Preprocessing(Frozen):
    """How a volume becomes the network's input, the same for every spacing."""

    orientation: Literal["RAS"] = "RAS"
    normalisation: Normalisation = Normalisation()


class Manifest(Frozen):
    """A checkpoint: one hypernetwork, or those of an ensemble, and all that is needed to train, serve and cite it.

    A scan larger than ``window`` voxels, or than ``window_mm``, is segmented in windows, of which neighbours share at
    least ``window_overlap``: instance norm wants windows like the crops of the training. ``conditions``: what the
    weights depend on besides the spacing. ``members``: of an ensemble, whose ``hypernetwork`` is the first one's.
    ``seen``: what training saw; without it, no result is judged. ``postprocessing``: of every label map.
    ``dice_by_spacing``: what to expect on the scans of the validation split.
    """

    format: Literal["unet-factory-checkpoint/1"] = "unet-factory-checkpoint/1"
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")
    architecture: Architecture
    hypernetwork: HypernetworkShape = HypernetworkShape()
    members: tuple[Member, ...] = ()
    grid: SpacingGrid
    conditions: tuple[Condition, ...] = ()
    labels: tuple[Label, ...]
    preprocessing: Preprocessing = Preprocessing()
    window: tuple[int, int, int] = (96, 96, 96)
    window_mm: SpacingMm | None = None
    window_overlap: float = Field(default=WINDOW_OVERLAP, ge=0, lt=1)
    modality: str = "MR"
    licence: str
    citation: str = ""
    card: str = ""
    metrics: tuple[dict[str, Any], ...] = ()
    seen: Seen | None = None
    postprocessing: Postprocessing = AS_GIVEN
    dice_by_spacing: DiceBySpacing | None = None
    training: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _labels_match_classes(self) -> Self:
        values = [label.value for label in self.labels]
        if values != list(range(self.architecture.classes)):
            raise ValueError(
                f"labels have the values {values}, but the architecture has {self.architecture.classes} classes: "
                f"give one label for each of 0..{self.architecture.classes - 1}, background first"
            )
        return self

    @model_validator(mode="after")
    def _conditions_have_names_of_their_own(self) -> Self:
        names = [condition.name for condition in self.conditions]
        if len(set(names)) < len(names):
            raise ValueError(f"conditions have the names {', '.join(names)}; each name must be used only once")
        return self

    @model_validator(mode="after")
    def _seen_labels_are_known(self) -> Self:
        names = {label.name for label in self.labels if label.value != 0}
        if self.seen is not None and (unknown := sorted({*self.seen.volumes_ml, *self.seen.extents_mm} - names)):
            raise ValueError(f"seen names {', '.join(unknown)}; the labels are {', '.join(sorted(names))}")
        return self

    @model_validator(mode="after")
    def _postprocessed_labels_are_known(self) -> Self:
        values = {value for group in self.postprocessing.keep_largest for value in group}
        if unknown := sorted(values - {label.value for label in self.labels}):
            raise ValueError(
                f"postprocessing.keep_largest names the labels {', '.join(map(str, unknown))}; "
                f"the labels are 1 to {len(self.labels) - 1}"
            )
        return self

    @property
    def hypernetworks(self) -> tuple[HypernetworkShape, ...]:
        """The shapes of all that segment together: of one, or of every member of an ensemble."""
        return tuple(member.hypernetwork for member in self.members) or (self.hypernetwork,)

    @property
    def member_numbers(self) -> tuple[int | None, ...]:
        """By which each of them is asked for: from 1 on in an ensemble, else None."""
        return tuple(range(1, len(self.members) + 1)) or (None,)

    def check_member(self, number: int | None) -> None:
        """
        Raises:
            MemberInvalid: ``number`` is none of :attr:`member_numbers`.
        """
        if number in self.member_numbers:
            return
        count = len(self.members)
        if count == 0:
            raise MemberInvalid(f"member is {number}, but {self.name} is a single network; leave member out", members=0)
        given = "member is missing" if number is None else f"member is {number}"
        raise MemberInvalid(
            f"{given}: {self.name} is an ensemble of {count} networks; ask for one of them with member=1 to "
            f"member={count}, or have POST /segmentations run all of them",
            members=count,
        )

    @property
    def postprocessing_in_words(self) -> tuple[str, ...]:
        return self.postprocessing.in_words([label.name for label in self.labels])

    @property
    def mirrored_axes(self) -> tuple[Axis, ...]:
        """Along which training showed the network mirrored scans, by the record of its training."""
        augmentation = self.training.get("augmentation")
        flipped = augmentation.get("flip_axes", ()) if isinstance(augmentation, dict) else ()
        return tuple(axis for index, axis in enumerate(AXES) if index in flipped)

    def axes_to_mirror(self, *, wanted: bool) -> tuple[Axis, ...]:
        """The axes to mirror a scan along where mirroring is ``wanted``.

        Raises:
            MalformedRequest: it is, but training has mirrored nothing.
        """
        if wanted and not self.mirrored_axes:
            raise MalformedRequest(
                f"mirroring cannot be had of {self.name}: it was not trained on mirrored scans; leave mirroring out"
            )
        return self.mirrored_axes if wanted else ()

    def window_at(self, spacing: SnappedSpacing) -> tuple[int, int, int]:
        """The largest window, in voxels, for a scan of ``spacing``."""
        if self.window_mm is None:
            return self.window
        r, a, s = (
            min(voxels, math.ceil(extent_mm / mm))
            for voxels, extent_mm, mm in zip(self.window, self.window_mm, spacing.mm, strict=True)
        )
        return r, a, s


class StandaloneManifest(Frozen):
    """A standalone U-Net for one spacing: everything that its user needs besides the tensors.

    ``strides`` are those that the architecture's pooling gives for ``snapped_um``, for readers without this package.
    ``conditions``: the values that it was made for, by name. ``member``: which one it is of an ensemble, from 1 on.
    """

    format: Literal["unet-factory-unet/1"] = "unet-factory-unet/1"
    model: str
    checkpoint_digest: str
    member: int | None = None
    architecture: Architecture
    snapped_um: tuple[int, int, int]
    strides: Strides | None = None
    dtype: Literal["float32", "float16"] = "float32"
    out_of_range: bool = False
    conditions: dict[str, float] = Field(default_factory=dict)
    labels: tuple[Label, ...]
    preprocessing: Preprocessing
    postprocessing: Postprocessing = AS_GIVEN
    window: tuple[int, int, int]
    window_overlap: float = Field(default=WINDOW_OVERLAP, ge=0, lt=1)
    licence: str
    citation: str = ""

    @property
    def spacing(self) -> SnappedSpacing:
        return SnappedSpacing(*self.snapped_um)

    @classmethod
    def of(cls, manifest: Manifest, digest: str, snapped: SnappedSpacing, conditions: SnappedConditions) -> Self:
        return cls(
            model=manifest.name,
            checkpoint_digest=digest,
            architecture=manifest.architecture,
            snapped_um=tuple(snapped),
            strides=manifest.architecture.strides(snapped),
            out_of_range=not manifest.grid.contains(snapped),
            conditions=named_conditions(manifest.conditions, conditions),
            labels=manifest.labels,
            preprocessing=manifest.preprocessing,
            postprocessing=manifest.postprocessing,
            window=manifest.window_at(snapped),
            window_overlap=manifest.window_overlap,
            licence=manifest.licence,
            citation=manifest.citation,
        )
