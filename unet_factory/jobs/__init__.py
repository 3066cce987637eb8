"""A job's life in Redis: records, leases, deliveries and what keeps promises while nobody asks.

What is said of a job (the contract of gateway, worker, courier and client) is defined in ``domain.jobs``; its types can
be had from here too, without Redis.
"""

from unet_factory.domain.jobs import (
    Delivery,
    DeliveryKind,
    DeliveryState,
    Job,
    JobState,
    PacsSeries,
    PolicyReport,
    Problem,
    SegmentationRequest,
    Spacings,
)

__all__ = [
    "Delivery",
    "DeliveryKind",
    "DeliveryState",
    "Job",
    "JobState",
    "PacsSeries",
    "PolicyReport",
    "Problem",
    "SegmentationRequest",
    "Spacings",
]
