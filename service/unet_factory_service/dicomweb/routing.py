"""Which series becomes a job of which model, and where its results go: rules of the operator, the first match counts.

The file named by ``UNET_FACTORY_ROUTING`` is YAML::

    rules:
      - match: {modality: MR, series_description: hippocampus|T1.*3D, body_part: BRAIN}
        model: hippocampus-mr
        send_to: [archive]
        outside: clamp
        conditions: {field_strength_t: 3}  # for a model that has conditions

Without a file, or in an empty one, there is one rule: the default model, for series of its own modality, sent nowhere.
"""

import re
from pathlib import Path
from typing import Annotated, Self

import yaml
from pydantic import AfterValidator, ValidationError, model_validator
from pydicom import Dataset

from unet_factory.destinations import Destinations
from unet_factory.domain.conditions import snap_conditions
from unet_factory.domain.errors import FactoryError, RoutingInvalid
from unet_factory.domain.frozen import Frozen, faults_of
from unet_factory.domain.segmentation_parameters import SERIES_REFERENCE, Names, SegmentationParameters
from unet_factory.platform.model_registry import ModelRegistry
from unet_factory_service.segmentations.planned_deliveries import planned_deliveries


def _compiles(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is not a valid regular expression: {error}") from None
    return pattern


Pattern = Annotated[str, AfterValidator(_compiles)]


class Match(Frozen):
    """All that is given must hold. Descriptions are regular expressions, found anywhere, whatever the case."""

    modality: str | None = None
    body_part: str | None = None
    series_description: Pattern | None = None
    study_description: Pattern | None = None
    protocol_name: Pattern | None = None

    def holds(self, header: Dataset) -> bool:
        """``header`` is that of any instance of the series."""
        exact = {"Modality": self.modality, "BodyPartExamined": self.body_part}
        found = {
            "SeriesDescription": self.series_description,
            "StudyDescription": self.study_description,
            "ProtocolName": self.protocol_name,
        }
        return all(
            wanted is None or _text(header, keyword).casefold() == wanted.casefold()
            for keyword, wanted in exact.items()
        ) and all(
            pattern is None or re.search(pattern, _text(header, keyword), re.IGNORECASE)
            for keyword, pattern in found.items()
        )


class RoutingRule(SegmentationParameters):
    """How a series that matches is segmented: any parameter, except those that choose the scan."""

    match: Match = Match()
    model: str
    send_to: Names = ()

    @model_validator(mode="after")
    def _does_not_choose_a_scan(self) -> Self:
        if chosen := [name for name in SERIES_REFERENCE if getattr(self, name) is not None]:
            raise ValueError(f"a rule applies to received series, so it must not have {', '.join(chosen)}")
        return self


def _not_empty(rules: tuple[RoutingRule, ...]) -> tuple[RoutingRule, ...]:
    if not rules:
        raise ValueError("there must be at least one rule; leave the file empty for the default one")
    return rules


class Routing(Frozen):
    rules: Annotated[tuple[RoutingRule, ...], AfterValidator(_not_empty)]

    def rule_for(self, header: Dataset) -> RoutingRule | None:
        """The first rule that matches a series of which ``header`` is one instance's."""
        return next((rule for rule in self.rules if rule.match.holds(header)), None)


def read_routing(file: Path | None, registry: ModelRegistry, destinations: Destinations) -> Routing | None:
    """The operator's rules, or the default one; None when there is neither a file nor a model.

    Raises:
        RoutingInvalid: the file cannot be read, is not a list of rules, or names an unknown model, condition or
            archive.
    """
    try:
        document = None if file is None else yaml.safe_load(file.read_text())
        if file is None or document is None:
            return _default(registry)
        routing = Routing.model_validate(document)
    except ValidationError as error:
        raise RoutingInvalid(f"{file}: {faults_of(error)}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError, FactoryError) as error:
        raise RoutingInvalid(f"{file}: {' '.join(str(error).split())}") from error
    for rule in routing.rules:
        _check_names(rule, file, registry, destinations)
    return routing


def _default(registry: ModelRegistry) -> Routing | None:
    if not registry.all():
        return None
    manifest = registry.get().manifest
    return Routing(rules=(RoutingRule(match=Match(modality=manifest.modality), model=manifest.name),))


def _check_names(rule: RoutingRule, file: Path, registry: ModelRegistry, destinations: Destinations) -> None:
    try:
        snap_conditions(registry.get(rule.model).manifest.conditions, rule.conditions)
        planned_deliveries(destinations, rule.send_to, rule.callback_url)
    except FactoryError as error:
        raise RoutingInvalid(f"{file}: {error}") from error


def _text(header: Dataset, keyword: str) -> str:
    return str(header.get(keyword) or "").strip()
