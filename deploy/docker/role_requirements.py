"""Print what a role needs from other projects, a requirement a line: an image layer that our code does not change."""

import sys
import tomllib
from pathlib import Path


def role_requirements(pyproject: Path, role: str) -> list[str]:
    """The core's dependencies and those of the extra named ``role``."""
    project = tomllib.loads(pyproject.read_text())["project"]
    return [*project["dependencies"], *project["optional-dependencies"][role]]


if __name__ == "__main__":
    sys.stdout.write("\n".join(role_requirements(Path("pyproject.toml"), sys.argv[1])) + "\n")
