"""A training run as one frozen value, read from YAML; every experiment is a value, not a flag in the code."""

from pathlib import Path
from types import MappingProxyType
from typing import Literal, Self

import yaml
from pydantic import Field, model_validator

from unet_factory.domain.conditions import Condition
from unet_factory.domain.frozen import Frozen
from unet_factory.domain.manifest import Architecture, HypernetworkShape, Label, Parametrization, Preprocessing
from unet_factory.domain.precision import Precision
from unet_factory.domain.spacing import SpacingGrid, SpacingMm
from unet_factory_training.contrast import InversionRecovery
from unet_factory_training.dataset_config import DatasetConfig
from unet_factory_training.overrides import Overrides, merged, overridden
from unet_factory_training.recipes import Recipe, expanded, recipe_values

Execution = Literal["eager", "overlapped", "compiled"]
RangeMm = tuple[tuple[float, float], tuple[float, float], tuple[float, float]]
"""(min, max) mm per axis, order (R, A, S)."""


class SpacingSampling(Frozen):
    """How a batch's spacing is drawn; three probabilities that sum to one.

    ``uniform`` in mm (the paper), ``log_uniform`` per axis, ``native`` the data set's own spacing.
    ``overshoot``: uniform draws reach this share of the range beyond its ends and are clamped, as scans are in use;
    without it the corners of the range are hardly ever trained.

    ``acquired_mm``: (min, max) mm per axis (R, A, S). Each scan is first degraded to a spacing of its own, drawn in the
    same way from this range, and then brought to the batch's spacing: data harmonisation (paper, section 4.1, FS).
    None takes the scans as they were acquired.

    ``views``: with 2, a batch also holds its crops at a second, coarser spacing (``coarser_view.py``), and the loss is
    the mean over both.
    """

    uniform: float = 1.0
    log_uniform: float = 0.0
    native: float = 0.0
    overshoot: float = Field(default=0.0, ge=0)
    acquired_mm: RangeMm | None = None
    views: Literal[1, 2] = 1


class BatchConfig(Frozen):
    """``voxels`` bounds the work of a batch, so coarse spacings get more scans; ``max_patch`` bounds a crop in voxels,
    ``max_patch_mm`` in millimetres.

    ``foreground``: the share of crops that are drawn around a labelled voxel. Which ones is ``drawn`` for each crop,
    around any labelled voxel; or that share of every batch is ``counted``, as nnU-Net does, around a voxel of a label
    drawn first, and chance only rounds it to whole crops. ``pad_to_max_patch``: every crop has ``max_patch`` voxels,
    zeros where the scan ends, however little of that a coarse scan fills.
    """

    min_scans: int = 2
    max_scans: int = 12
    voxels: int = 200_000
    max_patch: tuple[int, int, int] = (64, 64, 64)
    max_patch_mm: SpacingMm | None = None
    pad_to_max_patch: bool = False
    foreground: float = Field(default=0.0, ge=0, le=1)
    foreground_crops: Literal["drawn", "counted"] = "drawn"


class AugmentationConfig(Frozen):
    """Ranges of the random changes; physical units, so they mean the same at every spacing.

    ``rotation_deg`` is about the axes (R, A, S): scans of few thick slices bear little but turns within the slice.
    ``scale`` is the largest logarithm of the factor for all axes; each axis alone may have a third more.
    ``intensity``: ``ranges`` changes intensities by what follows here, from ``gamma`` on; ``nnunet`` as nnU-Net does,
    whatever these values are (``nnunet_intensity.py``).
    """

    rotation_deg: tuple[float, float, float] = (15.0, 15.0, 15.0)
    rotation_probability: float = Field(default=1.0, ge=0, le=1)
    scale: float = 0.15
    scale_probability: float = Field(default=1.0, ge=0, le=1)
    translation_mm: float = 4.0
    flip_axes: tuple[int, ...] = (0,)
    elastic_mm: float = 2.0
    elastic_knot_mm: float = 12.0
    intensity: Literal["ranges", "nnunet"] = "ranges"
    gamma: float = 0.3
    contrast: float = 0.25
    bias_field: float = 0.3
    noise: float = 0.1
    blur_probability: float = 0.15


class OptimisationConfig(Frozen):
    """Adam, or stochastic gradient descent with Nesterov's ``momentum``. ``weight_decay`` is added to the gradients of
    all parameters. The rate warms up linearly; then it falls to zero by a cosine or a polynomial (of power 0.9), or
    stays constant. ``ema_decay`` averages the hypernetwork's parameters, 0 takes them as they are; ``clip_norm`` None
    leaves gradients alone.

    A run ends after ``iterations``, or sooner, once its steps have used ``max_voxels`` voxels or ``max_seconds``;
    the schedule follows the limit that is closest.

    ``batches_per_step``: how many batches, each of one spacing, an iteration takes together; a multiple of the number
    of processes. ``heads_decay``: after each step the heads, and nothing else, are multiplied by 1 - learning rate *
    heads_decay, which pulls the weights for every spacing towards the common ones unless the data says otherwise; 0
    leaves them alone. ``deep_supervision``: in training, coarser levels of the decoder give logits as well, by 1x1x1
    convolutions, and the loss counts them; these convolutions are parameters of the run, the same for all spacings, and
    no part of the checkpoint or of the networks that it generates. ``consistency_weight``: of the Kullback-Leibler
    divergence between the class probabilities of a batch's two views (``sampling.views: 2``), on the coarser grid. The
    finer view's are the target, and get no gradient from it; 0 leaves the term out.

    ``execution``: how the U-Net is run. ``eager``: operation by operation. ``overlapped``, the same gradients to the
    bit: where PyTorch has one thread on a CPU (``threads: 1``), a second works out those of the convolutions' weights
    meanwhile; elsewhere as ``eager``. ``compiled``: through ``torch.compile``, once for all spacings of equal strides;
    on a GPU by CUDA graphs.
    """

    iterations: int = Field(ge=1)
    max_voxels: int | None = Field(default=None, ge=1)
    max_seconds: float | None = Field(default=None, gt=0)
    batches_per_step: int = Field(default=1, ge=1)
    optimiser: Literal["adam", "sgd"] = "adam"
    momentum: float = Field(default=0.99, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0)
    learning_rate: float = 1e-3
    schedule: Literal["cosine", "polynomial", "constant"] = "cosine"
    warmup: int = 200
    ema_decay: float = 0.999
    heads_decay: float = Field(default=0.0, ge=0)
    clip_norm: float | None = 1.0
    deep_supervision: bool = False
    consistency_weight: float = Field(default=0.0, ge=0)
    precision: Precision = "bfloat16"
    execution: Execution = "overlapped"


class Distillation(Frozen):
    """Beside the labels, a finished network of one fixed spacing teaches (``agreement.py``): ``weight`` times the
    Kullback-Leibler divergence from its class probabilities to the network's, both softened by ``temperature``
    (Hinton et al., 2015), is added to the loss.

    ``teacher``: a standalone network's file, or a checkpoint that was trained at one spacing, such as FS.
    """

    teacher: str
    weight: float = Field(default=1.0, gt=0)
    temperature: float = Field(default=2.0, gt=0)


class TrainingConfig(Frozen):
    """``recipe``: values that belong together, by name (``recipes.py``).
    ``start_from``: a checkpoint file, whose parameters a new run starts with as far as they fit
    (``starting_point.py``). ``initial_kernels``: whether the networks for all spacings start with ``common`` kernels,
    or with those of the finest spacing ``resampled`` in mm (``initial_kernels.py``).

    ``log_every``: after how many iterations the losses and the pace are logged; on a GPU the host waits for the device
    only then, and when it saves or validates.
    ``conditions``: what the hypernetwork is told besides the spacing. ``contrast``: scans are not seen as they are, but
    each batch at a simulated contrast of its own.
    """

    name: str
    recipe: Recipe | None = None
    dataset: DatasetConfig
    architecture: Architecture
    hypernetwork: HypernetworkShape = HypernetworkShape()
    grid_step_mm: float = 0.05
    trained_range_mm: RangeMm
    conditions: tuple[Condition, ...] = ()
    contrast: InversionRecovery | None = None
    labels: tuple[Label, ...]
    preprocessing: Preprocessing = Preprocessing()
    window: tuple[int, int, int] = (96, 96, 96)
    window_mm: SpacingMm | None = None
    heads_dtype: Literal["float32", "float16"] = "float32"
    licence: str
    citation: str = ""
    card: str = ""
    modality: str = "MR"
    sampling: SpacingSampling = SpacingSampling()
    batch: BatchConfig = BatchConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    optimisation: OptimisationConfig
    distillation: Distillation | None = None
    start_from: str | None = None
    initial_kernels: Literal["common", "resampled"] = "common"
    seed: int = 0
    report_at_mm: tuple[SpacingMm, ...] = ()
    validate_every: int = Field(default=1000, ge=1)
    save_every: int = Field(default=250, ge=1)
    log_every: int = Field(default=50, ge=1)
    loader_workers: int = 1
    threads: int | None = None

    @model_validator(mode="after")
    def _terms_have_what_they_need(self) -> Self:
        optimisation, two_views = self.optimisation, self.sampling.views == 2
        if optimisation.consistency_weight and not two_views:
            raise ValueError(
                f"optimisation.consistency_weight is {optimisation.consistency_weight:g}, but sampling.views is 1; "
                "set views to 2, or the weight to 0"
            )
        if two_views and optimisation.execution == "compiled":
            raise ValueError(
                "sampling.views is 2, so a step has two forward passes, but optimisation.execution is compiled, whose "
                "CUDA graphs keep only the last; set it to overlapped or eager"
            )
        if self.initial_kernels == "resampled" and self.hypernetwork.parametrization is not Parametrization.MIP:
            raise ValueError(
                f"initial_kernels is resampled, but hypernetwork.parametrization is "
                f"{self.hypernetwork.parametrization}; only mip can start so"
            )
        return self

    @property
    def grid(self) -> SpacingGrid:
        return SpacingGrid.from_mm(self.grid_step_mm, self.trained_range_mm)

    @property
    def acquired_grid(self) -> SpacingGrid:
        """The spacings at which scans are acquired that the network is to see: the trained ones, or those of
        ``sampling.acquired_mm``.
        """
        return SpacingGrid.from_mm(self.grid_step_mm, self.sampling.acquired_mm or self.trained_range_mm)


def read_config(path: Path, overrides: Overrides = MappingProxyType({})) -> TrainingConfig:
    """Read a YAML file and change it; unknown or ill-typed values raise pydantic's ``ValidationError`` naming them."""
    values = yaml.safe_load(path.read_text())
    values = merged(overridden({}, recipe_values(values)), values)
    return TrainingConfig.model_validate(overridden(values, expanded(overrides)))
