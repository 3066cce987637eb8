"""Which models there are, from the manifests in the model folder and in installed packages; no torch, so the gateway
can answer by itself.
"""

import logging
import math
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from unet_factory.domain.errors import CheckpointInvalid, ModelUnknown
from unet_factory.domain.manifest import Manifest
from unet_factory.platform import metrics
from unet_factory.platform.file_digest import FileStamp, file_digest
from unet_factory.platform.installed_models import MODELS_GROUP, installed_folders
from unet_factory.platform.manifest_file import read_manifest

log = logging.getLogger(__name__)

DEFAULT_FILE = "default"
LOOK_EVERY_S = 1.0

_NO_MODEL = (
    "there is no model at all; install some (pip install 'unet-factory[models]'),"
    " or put a checkpoint (*.safetensors) into the model folder"
)


@dataclass(frozen=True)
class RegisteredModel:
    """A checkpoint file."""

    path: Path
    manifest: Manifest
    digest: str


class ModelRegistry:
    """The usable checkpoints of a folder and of installed packages, by name, as they are now; safe to share between
    threads. Of two models with one name, the folder's replaces a package's.

    The folder is looked at again at most every ``LOOK_EVERY_S``, and only files that changed are read. A file that
    cannot be used is refused by name, in the log and the metrics, and keeps no other from being used.
    """

    def __init__(self, folder: Path, default: str = "") -> None:
        self._folder, self._wanted_default = folder, default
        self._packages = installed_folders(MODELS_GROUP)
        self._lock = threading.Lock()
        self._looked = -math.inf
        self._files: dict[Path, tuple[FileStamp, RegisteredModel | str]] = {}
        self._models: dict[str, RegisteredModel] = {}
        self._refused: dict[str, str] = {}

    @classmethod
    def scan(cls, folder: Path, default: str = "") -> "ModelRegistry":
        """The registry of every ``*.safetensors`` in ``folder`` and in installed packages.

        The default is the one named, else by the folder's file ``default``, else the folder's first by name, else by
        a package's file ``default``, else the packages' first by name.

        Raises:
            CheckpointInvalid: there are files, and none of them can be used.
            ModelUnknown: the named default is not there.
        """
        registry = cls(folder, default)
        models, refused = registry._look()
        if refused and not models:
            raise CheckpointInvalid("; ".join(refused.values()))
        if registry._named_default:
            registry.get()
        return registry

    def get(self, name: str | None = None) -> RegisteredModel:
        """The named model, or the default one.

        Raises:
            ModelUnknown: no usable model has that name.
        """
        models, refused = self._look()
        wanted = name or self._named_default or self._first_of(models)
        if wanted not in models:
            reasons = "".join(f"; refused: {reason}" for reason in refused.values())
            found = f"there is no model {wanted!r}; available: {', '.join(models)}" if models else _NO_MODEL
            raise ModelUnknown(
                found + reasons,
                requested=wanted,
                available=list(models),
            )
        return models[wanted]

    def all(self) -> list[RegisteredModel]:
        return list(self._look()[0].values())

    def refused(self) -> dict[str, str]:
        """Why each of the files that cannot be used is refused, by its name."""
        return dict(self._look()[1])

    def refuse(self, model: RegisteredModel, reason: str) -> None:
        """Use a file no more until it is replaced: its header is sound, but the rest cannot be used."""
        with self._lock:
            stamp, found = self._files.get(model.path, (None, None))
            if stamp is not None and found == model:
                self._files[model.path] = (stamp, reason)
                self._sort_out()

    def look_again(self) -> None:
        """Have the next question answered from the folder as it is then."""
        self._looked = -math.inf

    @property
    def _named_default(self) -> str:
        return self._wanted_default or _default_of(self._folder)

    def _first_of(self, models: dict[str, RegisteredModel]) -> str:
        own = [name for name, model in models.items() if model.path.parent == self._folder]
        named = (default for folder in self._packages if (default := _default_of(folder)))
        return min(own, default="") or next(named, "") or min(models, default="")

    def _look(self) -> tuple[dict[str, RegisteredModel], dict[str, str]]:
        """The usable models by name, and why each of the other files is refused."""
        with self._lock:
            if time.monotonic() - self._looked >= LOOK_EVERY_S:
                self._files = {path: read for path in self._paths() if (read := self._read(path)) is not None}
                self._sort_out()
                self._looked = time.monotonic()
            return self._models, self._refused

    def _paths(self) -> list[Path]:
        """The folder's own first."""
        return [path for folder in (self._folder, *self._packages) for path in sorted(folder.glob("*.safetensors"))]

    def _read(self, path: Path) -> tuple[FileStamp, RegisteredModel | str] | None:
        """The file's stamp with its model or the reason why it is refused; None if it was just removed."""
        try:
            stamp = FileStamp.of(path.stat())
            known = self._files.get(path)
            if known is not None and known[0] == stamp:
                return known
            return stamp, RegisteredModel(path, read_manifest(path), file_digest(path))
        except FileNotFoundError:
            return None
        except (CheckpointInvalid, OSError) as error:
            return stamp, str(error)

    def _sort_out(self) -> None:
        models: dict[str, RegisteredModel] = {}
        refused: dict[str, str] = {}
        for path, (_, found) in self._files.items():
            if isinstance(found, str):
                refused[path.name] = found
                continue
            other = models.setdefault(found.manifest.name, found)
            if other.path.parent == found.path.parent and other is not found:
                name = found.manifest.name
                refused[path.name] = f"{other.path.name} and {path.name} are both called {name!r}; remove one"
        for file, reason in refused.items():
            if self._refused.get(file) != reason:
                log.error("the model file %s is refused: %s", file, reason)
        metrics.MODELS_REFUSED.set(len(refused))
        for name in models:
            for counter in (metrics.IMPLAUSIBLE_RESULTS, metrics.SPACING_OUT_OF_RANGE):
                counter.labels(name)  # from the start: the first must show as an increase
        self._models, self._refused = models, refused


def _default_of(folder: Path) -> str:
    """The name in a folder's file ``default``; empty without one."""
    try:
        return (folder / DEFAULT_FILE).read_text().strip()
    except FileNotFoundError:
        return ""
