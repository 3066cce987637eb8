"""A comparison as one frozen value, read from YAML: which methods, and on which spacings they are judged."""

from collections import ChainMap
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import Field, model_validator

from unet_factory.domain.frozen import Frozen
from unet_factory.domain.precision import Precision
from unet_factory.domain.spacing import OutsidePolicy, SpacingMm
from unet_factory_training.config import TrainingConfig, read_config
from unet_factory_training.datasets import Split
from unet_factory_training.recipes import expanded

Interval = tuple[tuple[float, float], tuple[float, float], tuple[float, float]]
"""(min, max) mm per axis, order (R, A, S)."""

NATIVE = "native"


class Arm(Frozen):
    """One method: what it changes in the shared configuration, and what it does with spacings it was not trained for.

    ``source`` (``from`` in YAML): the arm whose checkpoint it uses instead of training its own. ``working_mm``: every
    scan is brought to this spacing, as to a fixed network's, and segmented there; None stands for the scan's own.
    """

    overrides: dict[str, Any] = Field(default_factory=dict)
    source: str | None = Field(default=None, alias="from")
    outside: OutsidePolicy = OutsidePolicy.CLAMP
    working_mm: SpacingMm | None = None


class Segment(Frozen):
    """Evenly spaced spacings from one to another, for a curve over the first ``scans``, or all."""

    name: str
    from_mm: SpacingMm
    to_mm: SpacingMm
    steps: int = Field(ge=2)
    scans: int | None = Field(default=None, ge=1)

    @property
    def region(self) -> str:
        return f"along {self.name}"


class CostConfig(Frozen):
    """What is timed: ``arms`` on a scan of ``extent_mm`` along a segment.

    The reference arm at ``at_mm`` is expected to need ``times`` less seconds and bytes than ``against`` at
    ``against_mm``.
    """

    arms: tuple[str, ...]
    along: Segment
    extent_mm: SpacingMm
    repeats: int = Field(default=5, ge=1)
    at_mm: SpacingMm
    against: str
    against_mm: SpacingMm
    times: float


class Expectation(Frozen):
    """The reference arm's mean Dice minus that of ``against`` should be ``at_least`` this in these regions."""

    against: str
    regions: tuple[str, ...]
    at_least: float


class Comparison(Frozen):
    """``base`` is a training configuration that all arms share but for their overrides; ``reference`` is the arm that
    the others are tested against. ``fixed_mm`` is where the fixed networks were trained, for the figures to show.

    Scored are the scans of ``splits``, the first ``max_scans`` of each, or all. Each gets ``draws`` spacings of its own
    from every interval, a draw that depends on its name alone.
    ``folds``: cross-validation over so many parts of the training and validation patients. Seed n leaves out part
    n - 1 (modulo the number of parts) and is scored on it alone; ``splits`` must be validation.
    ``inversion_times_ms``: where contrasts are simulated, each scan is also scored at each of these, at its spacing.
    ``precision``: the arithmetic of the networks while they are scored.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    title: str
    base: Path
    overrides: dict[str, Any] = Field(default_factory=dict)
    arms: dict[str, Arm]
    reference: str
    fixed_mm: SpacingMm | None = None
    intervals: dict[str, Interval] = Field(default_factory=dict)
    draws: int = Field(default=10, ge=1)
    segments: tuple[Segment, ...] = ()
    inversion_times_ms: tuple[float, ...] = ()
    precision: Precision = "float32"
    splits: tuple[Split, ...] = ("test",)
    max_scans: int | None = Field(default=None, ge=1)
    folds: int | None = Field(default=None, ge=2)
    seeds: tuple[int, ...] = (1,)
    cost: CostConfig | None = None
    expectations: tuple[Expectation, ...] = ()

    @model_validator(mode="after")
    def _names_exist(self) -> Self:
        sources = {name: arm.source for name, arm in self.arms.items() if arm.source is not None}
        named = {self.reference, *sources.values(), *(expected.against for expected in self.expectations)}
        if self.cost:
            named |= {*self.cost.arms, self.cost.against}
        self.check_arms(named)
        if chained := [name for name, source in sources.items() if source in sources]:
            raise ValueError(f"{', '.join(chained)}: the source of an arm must be a trained arm")
        if self.folds is not None and self.splits != ("validation",):
            raise ValueError(f"with folds, splits must be [validation], not {list(self.splits)}")
        regions = {*self.regions, *(segment.region for segment in self.segments)}
        if missing := {region for expected in self.expectations for region in expected.regions} - regions:
            raise ValueError(f"no such region: {', '.join(sorted(missing))}; there are {', '.join(sorted(regions))}")
        return self

    @property
    def regions(self) -> list[str]:
        """What a mean is told for."""
        return [*self.intervals, NATIVE, *(inversion_region(ms) for ms in self.inversion_times_ms)]

    @property
    def grid_step_mm(self) -> float:
        return self.training_config(self.reference, self.seeds[0]).grid_step_mm

    def trained_arms(self) -> list[str]:
        return [name for name, arm in self.arms.items() if arm.source is None]

    def check_arms(self, named: Iterable[str]) -> None:
        """
        Raises:
            ValueError: a name is no arm's.
        """
        if unknown := sorted(set(named) - set(self.arms)):
            raise ValueError(f"no such arm: {', '.join(unknown)}; there are {', '.join(self.arms)}")

    def training_config(self, arm_name: str, seed: int) -> TrainingConfig:
        """How an arm is trained; for one that has a source, how that source's checkpoint is used.

        Raises:
            ValidationError: an override names nothing in a training configuration, or does not fit.
        """
        arm = self.arms[arm_name]
        inherited = {} if arm.source is None else self.arms[arm.source].overrides
        own: dict[str, Any] = {"name": f"{self.name}-{slug(arm_name)}", "seed": seed}
        if self.folds is not None:
            own["dataset.fold"] = {"number": (seed - 1) % self.folds, "of": self.folds}
        layers = (self.overrides, inherited, arm.overrides, own)
        return read_config(self.base, dict(ChainMap(*(dict(expanded(layer)) for layer in reversed(layers)))))


def inversion_region(inversion_time_ms: float) -> str:
    return f"native, TI {inversion_time_ms:g} ms"


def slug(name: str) -> str:
    """A name as part of a file name: ``HyperSpace, unclamped`` -> ``hyperspace-unclamped``."""
    return "-".join("".join(letter if letter.isalnum() else " " for letter in name.lower()).split())


def read_comparison(path: Path) -> Comparison:
    """Read a YAML file; ``base`` is relative to it. Checks every arm's training configuration.

    Raises:
        ValueError: pydantic's, naming what is wrong.
    """
    values = yaml.safe_load(path.read_text())
    comparison = Comparison.model_validate(values)
    comparison = comparison.model_copy(update={"base": path.parent / comparison.base})
    for arm in comparison.arms:
        comparison.training_config(arm, comparison.seeds[0])
    return comparison
