"""Compiles unet_factory/model/make_weights.c, the project's only native code, when the package is built or installed.

Without a C compiler the package is built all the same: networks are then made by PyTorch alone, which takes longer, and
every worker says so when it starts.
"""

import os
import shlex
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hatchling.builders.config import BuilderConfig
from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from packaging.tags import sys_tags

_FLAGS = ("-O3", "-ffp-contract=off", "-fPIC", "-shared", "-Wno-psabi")
_SOURCE, _LIBRARY = "unet_factory/model/make_weights.c", "unet_factory/model/_make_weights.so"


class CompiledKernel(BuildHookInterface[BuilderConfig]):
    """A wheel holds the library, and is one for this kind of machine; an editable install has it beside its source."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        self._folder = TemporaryDirectory()
        built, in_place = Path(self._folder.name, Path(_LIBRARY).name), Path(self.root, _LIBRARY)
        compiler = os.environ.get("CC", "cc")
        command = [*shlex.split(compiler), *_FLAGS, str(Path(self.root, _SOURCE)), "-o", str(built)]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            if version == "editable":
                in_place.unlink(missing_ok=True)  # it may be of an older source
            said = getattr(error, "stderr", None) or error
            self.app.display_warning(
                f"{_SOURCE} was not compiled, so PyTorch alone will make networks, which takes several times as long: "
                f"install GCC 12 or Clang, or name another compiler in CC. {compiler} said: {said}"
            )
            return
        if version == "editable":
            partial = in_place.with_suffix(".partial")
            shutil.copyfile(built, partial)
            partial.replace(in_place)  # whoever has mapped the old one keeps it
        else:
            platforms = (tag.platform for tag in sys_tags())
            own = next(name for name in platforms if not name.startswith(("manylinux", "musllinux")))
            build_data |= {"pure_python": False, "tag": f"py3-none-{own}"}
            build_data["force_include"][str(built)] = _LIBRARY

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002
        self._folder.cleanup()
