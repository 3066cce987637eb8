"""Which models there are, from the manifests in the model folder; no torch, so the gateway can answer by itself."""

from dataclasses import dataclass
from pathlib import Path

from unet_factory.domain.errors import CheckpointInvalid, ModelUnknown
from unet_factory.domain.manifest import Manifest
from unet_factory.platform.manifest_file import file_digest, read_manifest

DEFAULT_FILE = "default"


@dataclass(frozen=True)
class RegisteredModel:
    """A checkpoint file in the model folder."""

    path: Path
    manifest: Manifest
    digest: str


class ModelRegistry:
    """The checkpoints found at start-up, by name."""

    def __init__(self, models: dict[str, RegisteredModel], default: str) -> None:
        self._models, self._default = models, default

    @classmethod
    def scan(cls, folder: Path, default: str = "") -> "ModelRegistry":
        """Read the manifest of every ``*.safetensors`` in ``folder``.

        The default is the one named, else by the folder's file ``default``, else the first by name: a model that is
        dropped in changes nothing for those who name none.

        Raises:
            CheckpointInvalid: a file there is no checkpoint, or two have one name.
            ModelUnknown: the named default is not there.
        """
        models: dict[str, RegisteredModel] = {}
        for path in sorted(folder.glob("*.safetensors")):
            model = RegisteredModel(path, read_manifest(path), file_digest(path))
            other = models.setdefault(model.manifest.name, model)
            if other is not model:
                raise CheckpointInvalid(
                    f"{other.path.name} and {path.name} are both called {model.manifest.name!r}; remove one"
                )
        named = default or _default_of(folder)
        registry = cls(models, named or min(models, default=""))
        if named:
            registry.get(named)
        return registry

    def get(self, name: str | None = None) -> RegisteredModel:
        """The named model, or the default one.

        Raises:
            ModelUnknown: there is none of that name.
        """
        wanted = name or self._default
        if wanted not in self._models:
            raise ModelUnknown(
                f"there is no model {wanted!r}; available: {', '.join(self._models) or 'none'}",
                requested=wanted,
                available=list(self._models),
            )
        return self._models[wanted]

    def all(self) -> list[RegisteredModel]:
        return list(self._models.values())


def _default_of(folder: Path) -> str:
    try:
        return (folder / DEFAULT_FILE).read_text().strip()
    except FileNotFoundError:
        return ""
