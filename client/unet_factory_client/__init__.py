"""A small typed client of the U-Net factory's HTTP interface; needs neither torch nor the gateway's packages."""

from unet_factory.domain.jobs import Job, JobState
from unet_factory.domain.quote import Quote, QuoteOption
from unet_factory.domain.segmentation_parameters import SegmentationParameters
from unet_factory_client.answers import (
    DeliveryDescription,
    FactoryStatus,
    ModelDescription,
    StandaloneNetwork,
    WorkerStatus,
)
from unet_factory_client.async_client import AsyncFactoryClient
from unet_factory_client.client import FactoryClient
from unet_factory_client.problems import FactoryProblem

__all__ = [
    "AsyncFactoryClient",
    "DeliveryDescription",
    "FactoryClient",
    "FactoryProblem",
    "FactoryStatus",
    "Job",
    "JobState",
    "ModelDescription",
    "Quote",
    "QuoteOption",
    "SegmentationParameters",
    "StandaloneNetwork",
    "WorkerStatus",
]
