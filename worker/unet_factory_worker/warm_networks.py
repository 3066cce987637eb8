"""Networks that an operator wants to be ready before anybody asks: made while no job is there, for every model."""

from dataclasses import dataclass, field

from unet_factory.domain.conditions import snap_conditions
from unet_factory.domain.spacing import OutsidePolicy, SnappedSpacing, SpacingMm
from unet_factory_worker.computing import Computing
from unet_factory_worker.factory import WeightFactory
from unet_factory_worker.loaded_models import LoadedModels


@dataclass(frozen=True)
class WarmNetworks:
    """Of one worker; others find what it has made in the shared cache."""

    spacings_ras_mm: tuple[SpacingMm, ...]
    models: LoadedModels
    factory: WeightFactory
    computing: Computing
    _made: set[tuple[str, SnappedSpacing]] = field(default_factory=set)

    def run(self) -> None:
        """Make what is missing, of models that are new, too: at the nearest trained spacing, with default conditions.

        Raises:
            GaveWay: a job came; the rest is made at the next run.
        """
        for name, digest in self.models.current().items():
            manifest = self.factory.checkpoint(name.partition("@")[0], digest).manifest
            for spacing_ras_mm in self.spacings_ras_mm:
                snapped = manifest.grid.resolve(spacing_ras_mm, OutsidePolicy.CLAMP).snapped
                if (digest, snapped) in self._made:
                    continue
                with self.computing.measurement():
                    self.factory.network(manifest.name, digest, snapped, snap_conditions(manifest.conditions, {}))
                    self._made.add((digest, snapped))
