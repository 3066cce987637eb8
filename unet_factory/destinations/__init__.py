"""Where results go and scans come from: the operator's archives and webhooks, and what webhooks may reach."""

from unet_factory.destinations.callback_rules import CallbackRules
from unet_factory.destinations.configuration import (
    BasicAuth,
    Destinations,
    DicomWeb,
    DicomWebAuth,
    Dimse,
    DimseTls,
    Pacs,
    SecretReference,
    Webhooks,
)

__all__ = [
    "BasicAuth",
    "CallbackRules",
    "Destinations",
    "DicomWeb",
    "DicomWebAuth",
    "Dimse",
    "DimseTls",
    "Pacs",
    "SecretReference",
    "Webhooks",
]
