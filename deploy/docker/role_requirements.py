"""Print what extras need from other projects, a requirement a line: an image layer that our code does not change."""

import re
import sys
import tomllib
from pathlib import Path
from typing import Any

_OWN_EXTRAS = re.compile(r"unet-factory\[(?P<extras>[\w,-]+)\]")


def role_requirements(pyproject: Path, *extras: str) -> list[str]:
    """The base dependencies and those of the extras, with what the extras that these name need."""
    project = tomllib.loads(pyproject.read_text())["project"]
    of_extras = (_of_extra(project["optional-dependencies"], extra) for extra in extras)
    return sorted(set(project["dependencies"]).union(*of_extras))


def _of_extra(extras: dict[str, Any], name: str) -> set[str]:
    needed: set[str] = set()
    for requirement in extras[name]:
        own = _OWN_EXTRAS.fullmatch(requirement)
        if own is None:
            needed.add(requirement)
        else:
            needed.update(*(_of_extra(extras, each) for each in own["extras"].split(",")))
    return needed


if __name__ == "__main__":
    sys.stdout.write("\n".join(role_requirements(Path("pyproject.toml"), *sys.argv[1:])) + "\n")
