"""Which models there are, from the manifests in the model folder; no torch, so the gateway can answer by itself."""

from dataclasses import dataclass
from pathlib import Path

from unet_factory.errors import UnknownModel
from unet_factory.manifest import Manifest
from unet_factory.manifest_file import file_digest, read_manifest


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

        Raises:
            CheckpointInvalid: a file there is no checkpoint.
            UnknownModel: ``default`` is named but not there.
        """
        found = [
            RegisteredModel(path, read_manifest(path), file_digest(path))
            for path in sorted(folder.glob("*.safetensors"))
        ]
        models = {model.manifest.name: model for model in found}
        registry = cls(models, default or next(iter(models), ""))
        if default:
            registry.get(default)
        return registry

    def get(self, name: str | None = None) -> RegisteredModel:
        """The named model, or the default one.

        Raises:
            UnknownModel: there is none of that name.
        """
        wanted = name or self._default
        if wanted not in self._models:
            raise UnknownModel(
                f"there is no model {wanted!r}; available: {', '.join(self._models) or 'none'}",
                requested=wanted,
                available=list(self._models),
            )
        return self._models[wanted]

    def all(self) -> list[RegisteredModel]:
        return list(self._models.values())
