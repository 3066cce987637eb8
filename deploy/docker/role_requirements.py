"""Print what roles need from other projects, a requirement a line: an image layer that our code does not change."""

import re
import sys
import tomllib
from pathlib import Path
from typing import Any

_OWN_EXTRAS = re.compile(r"unet-factory\[(?P<extras>[\w,-]+)\]")


def role_requirements(pyproject: Path, role: str) -> list[str]:
    """The base dependencies and those of the extra named ``role``, with what the extras that it names need."""
    project = tomllib.loads(pyproject.read_text())["project"]
    return sorted({*project["dependencies"], *_of_extra(project["optional-dependencies"], role)})


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
    for line in sorted({line for role in sys.argv[1:] for line in role_requirements(Path("pyproject.toml"), role)}):
        sys.stdout.write(f"{line}\n")
