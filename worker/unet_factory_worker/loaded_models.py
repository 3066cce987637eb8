"""The checkpoints that a worker holds, kept in step with the model folder while it works."""

import logging
import threading

import torch
from torch.func import functional_call

from unet_factory.domain.errors import CheckpointInvalid, ModelUnknown
from unet_factory.domain.spacing import SnappedSpacing
from unet_factory.model.checkpoint import Checkpoint, load_checkpoint
from unet_factory.model.inference import logits
from unet_factory.model.unet import empty_unet
from unet_factory.platform.model_registry import ModelRegistry, RegisteredModel

log = logging.getLogger(__name__)


class LoadedModels:
    """Safe to share between threads. A replaced checkpoint stays loaded, for jobs pinned to it, until the next one."""

    def __init__(self, registry: ModelRegistry, device: torch.device) -> None:
        self._registry, self._device = registry, device
        self._lock = threading.Lock()
        self._loaded: dict[str, list[Checkpoint]] = {}

    def refresh(self) -> None:
        """Load what is new in the folder. A file that cannot be loaded is refused, and keeps no other from it."""
        with self._lock:
            for model in self._registry.all():
                held = self._loaded.get(model.manifest.name, [])
                if model.digest not in {checkpoint.digest for checkpoint in held}:
                    self._load(model, held)

    def get(self, model: str, digest: str) -> Checkpoint:
        """
        Raises:
            ModelUnknown: that very checkpoint is neither loaded nor in the folder any more.
        """
        if (found := self._find(model, digest)) is None:
            self._registry.look_again()  # the gateway may have seen a newer folder than we have
            self.refresh()
            found = self._find(model, digest)
        if found is None:
            raise ModelUnknown(
                f"this worker has no checkpoint {digest[:12]} of the model {model!r}: its file was replaced or "
                "removed; send the request again",
                requested=model,
                available=self.current(),
            )
        return found

    def current(self) -> dict[str, str]:
        """The digest of the newest checkpoint by model name."""
        return {name: held[-1].digest for name, held in self._loaded.items()}

    def any(self) -> Checkpoint:
        """One of the newest checkpoints; at least one must be loaded."""
        return next(iter(self._loaded.values()))[-1]

    def _find(self, model: str, digest: str) -> Checkpoint | None:
        return next((held for held in self._loaded.get(model, []) if held.digest == digest), None)

    def _load(self, model: RegisteredModel, held: list[Checkpoint]) -> None:
        try:
            checkpoint = load_checkpoint(model.path, self._device)
        except (CheckpointInvalid, OSError) as error:
            self._registry.refuse(model, str(error))
            return
        _warm_up(checkpoint, self._device)
        self._loaded = self._loaded | {model.manifest.name: [*held[-1:], checkpoint]}
        log.info("loaded %s (%s)", model.manifest.name, checkpoint.digest[:12])


def _warm_up(checkpoint: Checkpoint, device: torch.device) -> None:
    """Send the smallest input through a network, so that libraries load and the device wakes now."""
    architecture, grid = checkpoint.manifest.architecture, checkpoint.manifest.grid
    finest = SnappedSpacing(*grid.min_um)
    unet, weights = empty_unet(architecture, finest).eval(), checkpoint.hypernetwork.generate(finest)
    extents = tuple(2 * divisor for divisor in unet.divisors)
    with torch.inference_mode():
        logits(
            lambda batch: functional_call(unet, weights, (batch,), strict=True),
            torch.zeros(extents, device=device),
            window=extents,
            divisors=unet.divisors,
        )
