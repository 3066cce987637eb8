"""Which workers are up, from what they announce in Redis."""

from unet_factory.jobs.presence import present
from unet_factory_service.dependencies import Services


def has_worker_for(services: Services, checkpoint_digest: str) -> bool:
    """Whether a worker has loaded the checkpoint."""
    return any(checkpoint_digest in worker.models.values() for worker in present(services.redis))
