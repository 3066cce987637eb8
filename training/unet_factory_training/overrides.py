"""Variants of a configuration are values: dotted names and what they become, applied before validation."""

from collections.abc import Iterable, Mapping
from copy import deepcopy
from typing import Any

import yaml

Overrides = Mapping[str, Any]


def overridden(values: Mapping[str, Any], overrides: Overrides) -> dict[str, Any]:
    """A copy of nested ``values`` in which each dotted name, as in ``optimisation.iterations``, has the new value.

    What a name holds is replaced whole: ``{"architecture.pooling": {}}`` leaves nothing of the old pooling. Names that
    do not exist are left for the validation to complain of.

    Raises:
        ValueError: a name leads through something that has no names in it.
    """
    result = deepcopy(dict(values))
    for name, value in overrides.items():
        *path, last = name.split(".")
        inner = result
        for depth, part in enumerate(path, start=1):
            inner = inner.setdefault(part, {})
            if not isinstance(inner, dict):
                raise ValueError(f"cannot set {name}: {'.'.join(path[:depth])} is {inner!r} and has no parts")
        inner[last] = deepcopy(value)
    return result


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of nested values in which those of ``above`` replace those of ``below``, part by part."""
    result = deepcopy(dict(below))
    for name, value in above.items():
        beneath = result.get(name)
        if isinstance(beneath, dict) and isinstance(value, Mapping):
            result[name] = merged(beneath, value)
        else:
            result[name] = deepcopy(value)
    return result


def parse_overrides(assignments: Iterable[str]) -> dict[str, Any]:
    """Read ``NAME=VALUE`` texts, the value as YAML.

    Raises:
        ValueError: a text is no assignment, or its value is no YAML.
    """
    overrides = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals or not name.strip():
            raise ValueError(f"{assignment!r}: expected NAME=VALUE, such as optimisation.iterations=200")
        try:
            overrides[name.strip()] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ValueError(f"{assignment!r}: the value is not valid YAML") from error
    return overrides
