"""Which workers are up, from what they announce in Redis."""

from unet_factory.jobs.presence import present
from unet_factory_service.dependencies import GatewayContext


def has_worker_for(gateway: GatewayContext, checkpoint_digest: str) -> bool:
    """Whether a worker has loaded the checkpoint."""
    return any(checkpoint_digest in worker.models.values() for worker in present(gateway.redis))
