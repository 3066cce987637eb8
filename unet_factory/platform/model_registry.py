"""Which models there are, from the manifests in the model folder and in installed packages; no torch, so the gateway
can answer by itself.
"""

import logging
import math
import threading
import time
from dataclasses import dataclass, replace
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
SETTLED_AFTER_S = 2.0
SHORTEST_DIGEST = 12

_NO_MODEL = (
    "there is no model at all; install some (pip install 'unet-factory[models]'),"
    " or put a checkpoint (*.safetensors) into the model folder"
)


@dataclass(frozen=True)
class RegisteredModel:
    """A checkpoint file: one version of the model that its manifest names."""

    path: Path
    manifest: Manifest
    digest: str

    @property
    def version(self) -> str:
        """How this very version is asked for."""
        return f"{self.manifest.name}@{self.digest[:SHORTEST_DIGEST]}"


@dataclass(frozen=True)
class _File:
    """A file as it was when it was looked at; ``before`` is the last of its versions that could be used."""

    stamp: FileStamp
    model: RegisteredModel | None
    before: RegisteredModel | None = None
    refused: str = ""

    @property
    def served(self) -> RegisteredModel | None:
        return self.model or self.before


class ModelRegistry:
    """The usable checkpoints of a folder and of installed packages as they are now; safe to share between threads.

    Several files may hold versions of one model; the name alone means the version whose file was written last, and the
    folder's go before a package's. ``NAME@DIGEST`` means one version, by at least 12 digits of its digest.

    The folder is looked at again at most every ``LOOK_EVERY_S``, and only files that changed are read. A file that
    cannot be used is refused by name, in the log and the metrics, and keeps no other from being used. If it could be
    used before it was changed, that version stays in use until the file is sound again or removed. So it does while the
    file is written over.
    """

    def __init__(self, folder: Path, default: str = "") -> None:
        self._folder, self._wanted_default = folder, default
        self._packages = installed_folders(MODELS_GROUP)
        self._lock = threading.Lock()
        self._looked = -math.inf
        self._files: dict[Path, _File] = {}
        self._models: dict[str, list[RegisteredModel]] = {}
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
        """The newest version of the named model, the version ``NAME@DIGEST``, or the default model.

        Raises:
            ModelUnknown: no usable model has that name, or none of its versions that digest.
        """
        models, refused = self._look()
        wanted = name or self._named_default or self._first_of(models)
        model, at, digest = wanted.partition("@")
        if model not in models:
            reasons = "".join(f"; refused: {reason}" for reason in refused.values())
            found = f"there is no model {model!r}; available: {', '.join(models)}" if models else _NO_MODEL
            raise ModelUnknown(
                found + reasons,
                requested=wanted,
                available=list(models),
            )
        return _version_of(models[model], digest) if at else models[model][-1]

    def all(self) -> list[RegisteredModel]:
        """The newest version of each model."""
        return [versions[-1] for versions in self._look()[0].values()]

    def versions(self, name: str | None = None) -> list[RegisteredModel]:
        """Every version of the named model, or of all models; of each model the newest last."""
        models = self._look()[0]
        chosen = models.values() if name is None else [models.get(name, [])]
        return [version for versions in chosen for version in versions]

    def refused(self) -> dict[str, str]:
        """Why each of the files that cannot be used is refused, by its name."""
        return dict(self._look()[1])

    def refuse(self, model: RegisteredModel, reason: str) -> None:
        """Use a file no more until it is replaced: its header is sound, but the rest cannot be used."""
        with self._lock:
            file = self._files.get(model.path)
            if file is not None and file.model == model:
                self._files[model.path] = replace(file, model=None, refused=reason)
                self._sort_out()

    def look_again(self) -> None:
        """Have the next question answered from the folder as it is then."""
        self._looked = -math.inf

    @property
    def _named_default(self) -> str:
        return self._wanted_default or _default_of(self._folder)

    def _first_of(self, models: dict[str, list[RegisteredModel]]) -> str:
        own = [name for name, versions in models.items() if versions[-1].path.parent == self._folder]
        named = (default for folder in self._packages if (default := _default_of(folder)))
        return min(own, default="") or next(named, "") or min(models, default="")

    def _look(self) -> tuple[dict[str, list[RegisteredModel]], dict[str, str]]:
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

    def _read(self, path: Path) -> _File | None:
        """The file as it is now; None if it was just removed."""
        known = self._files.get(path)
        before = None if known is None else known.served
        try:
            stamp = FileStamp.of(path.stat())
            if known is not None and (known.stamp == stamp or _is_being_written(stamp, known.stamp)):
                return known
            return _File(stamp, RegisteredModel(path, read_manifest(path), file_digest(path)), before)
        except FileNotFoundError:
            return None
        except (CheckpointInvalid, OSError) as error:
            return _File(stamp, None, before, str(error))

    def _sort_out(self) -> None:
        models: dict[str, dict[str, RegisteredModel]] = {}
        refused = {path.name: file.refused for path, file in self._files.items() if file.refused}
        own_last = sorted(self._files.items(), key=lambda item: (item[0].parent == self._folder, *_age(item)))
        for _, file in own_last:
            if (model := file.served) is not None:
                versions = models.setdefault(model.manifest.name, {})
                versions.pop(model.digest, None)
                versions[model.digest] = model
        for name, reason in refused.items():
            if self._refused.get(name) != reason:
                log.error("the model file %s is refused: %s", name, reason)
        metrics.MODELS_REFUSED.set(len(refused))
        for name in models:
            for counter in (metrics.IMPLAUSIBLE_RESULTS, metrics.SPACING_OUT_OF_RANGE):
                counter.labels(name)  # from the start: the first must show as an increase
        self._models, self._refused = {name: list(models[name].values()) for name in sorted(models)}, refused


def _is_being_written(now: FileStamp, before: FileStamp) -> bool:
    """Whether the very file that was read before was written to a moment ago. What is whole may still be half old."""
    return now.inode == before.inode and time.time_ns() - now.modified_ns < SETTLED_AFTER_S * 1e9


def _age(item: tuple[Path, _File]) -> tuple[int, str]:
    """Sorts files by when they were last written to, then by name."""
    path, file = item
    return file.stamp.modified_ns, path.name


def _version_of(versions: list[RegisteredModel], digest: str) -> RegisteredModel:
    """
    Raises:
        ModelUnknown: none of the versions has that digest.
    """
    if len(digest) >= SHORTEST_DIGEST:
        for version in reversed(versions):
            if version.digest.startswith(digest):
                return version
    name, there = versions[0].manifest.name, [version.version for version in versions]
    raise ModelUnknown(
        f"there is no version {digest[:64]!r} of the model {name!r}; a version is named by at least {SHORTEST_DIGEST} "
        f"digits of its digest; available: {', '.join(there)}",
        requested=f"{name}@{digest[:64]}",
        available=there,
    )


def _default_of(folder: Path) -> str:
    """The name in a folder's file ``default``; empty without one."""
    try:
        return (folder / DEFAULT_FILE).read_text().strip()
    except FileNotFoundError:
        return ""
