"""The checkpoints that a worker holds, kept in step with the model folder while it works."""

import logging
import threading
import time

import torch
from torch.func import functional_call

from unet_factory.domain.errors import CheckpointInvalid, ModelUnknown
from unet_factory.domain.spacing import SnappedSpacing
from unet_factory.model.checkpoint import Checkpoint, load_checkpoint
from unet_factory.model.inference import logits
from unet_factory.model.unet import empty_unet
from unet_factory.platform.model_registry import SHORTEST_DIGEST, ModelRegistry, RegisteredModel
from unet_factory.platform.shared_copies import SharedCopies

log = logging.getLogger(__name__)

KEPT_S = 3600.0  # as long as a job may take, unless the gateway allows it more


class LoadedModels:
    """Safe to share between threads.

    A checkpoint that was replaced or removed stays loaded for jobs that are pinned to it, one for each model: until the
    next one is replaced, and at most for ``KEPT_S``.
    """

    def __init__(self, registry: ModelRegistry, device: torch.device, shared: SharedCopies | None = None) -> None:
        self._registry, self._device, self._shared = registry, device, shared
        self._lock = threading.Lock()
        self._loaded: dict[str, list[Checkpoint]] = {}
        self._retired: dict[str, tuple[float, Checkpoint]] = {}

    def refresh(self) -> None:
        """Load what is new in the folder. A file that cannot be loaded is refused, and keeps no other from it."""
        with self._lock:
            held = {checkpoint.digest: checkpoint for checkpoint in self._all()}
            for model in self._registry.versions():
                if model.digest not in held and (checkpoint := self._load(model)) is not None:
                    held[checkpoint.digest] = checkpoint
            wanted = self._registry.versions()  # again: without those that could not be loaded
            loaded: dict[str, list[Checkpoint]] = {}
            for model in wanted:
                if model.digest in held:
                    loaded.setdefault(model.manifest.name, []).append(held[model.digest])
            digests = {model.digest for model in wanted}
            self._retire(digests)
            self._loaded = loaded
            if self._shared is not None:
                self._shared.keep_only(digests)

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
        """The digest of what is ready, by what it may be asked for as: a model's name (its newest version), and
        ``NAME@DIGEST`` for each of its other versions.
        """
        ready: dict[str, str] = {}
        for name, versions in self._loaded.items():
            ready[name] = versions[-1].digest
            ready |= {f"{name}@{version.digest[:SHORTEST_DIGEST]}": version.digest for version in versions[:-1]}
        return ready

    def any(self) -> Checkpoint:
        """One of the newest checkpoints; at least one must be loaded."""
        return next(iter(self._loaded.values()))[-1]

    def _all(self) -> list[Checkpoint]:
        retired = [checkpoint for _, checkpoint in self._retired.values()]
        return [*retired, *(version for versions in self._loaded.values() for version in versions)]

    def _find(self, model: str, digest: str) -> Checkpoint | None:
        return next((held for held in self._all() if (held.manifest.name, held.digest) == (model, digest)), None)

    def _retire(self, wanted: set[str]) -> None:
        now = time.monotonic()
        kept = {name: entry for name, entry in self._retired.items() if now - entry[0] < KEPT_S}
        for version in (version for versions in self._loaded.values() for version in versions):
            if version.digest not in wanted:
                kept[version.manifest.name] = now, version
        self._retired = {name: entry for name, entry in kept.items() if entry[1].digest not in wanted}

    def _load(self, model: RegisteredModel) -> Checkpoint | None:
        try:
            checkpoint = load_checkpoint(model.path, self._device, self._shared)
        except (CheckpointInvalid, OSError) as error:
            self._registry.refuse(model, str(error))
            return None
        _warm_up(checkpoint, self._device)
        log.info("loaded %s (%s)", model.manifest.name, checkpoint.digest[:12])
        return checkpoint


def _warm_up(checkpoint: Checkpoint, device: torch.device) -> None:
    """Send the smallest input through a network, so that libraries load and the device wakes now."""
    architecture, grid = checkpoint.manifest.architecture, checkpoint.manifest.grid
    finest = SnappedSpacing(*grid.min_um)
    unet, weights = empty_unet(architecture, finest).eval(), checkpoint.members[0].generate(finest)
    extents = tuple(2 * divisor for divisor in unet.divisors)
    with torch.inference_mode():
        logits(
            lambda batch: functional_call(unet, weights, (batch,), strict=True),
            torch.zeros(extents, device=device),
            window=extents,
            divisors=unet.divisors,
        )
