"""What couriers are to do for a job, planned when it is submitted: all that can be refused is refused then."""

from unet_factory.destinations import Destinations
from unet_factory.domain.jobs import Delivery, DeliveryKind, PacsSeries
from unet_factory.domain.segmentation_parameters import SegmentationParameters
from unet_factory_service.errors import NotSupported


def planned_fetch(destinations: Destinations, series: PacsSeries | None) -> Delivery | None:
    """
    Raises:
        DestinationUnknown: no such archive, or none to fetch from.
    """
    if series is None:
        return None
    destinations.source(series.pacs)
    return Delivery(kind=DeliveryKind.FETCH, destination=series.pacs)


def receivers(destinations: Destinations, parameters: SegmentationParameters, *, dicom: bool) -> tuple[str, ...]:
    """Names of the archives that get the DICOM results: those the caller names, else those of the series' archive.

    Raises:
        DestinationUnknown: one of them is not configured.
        NotSupported: the scan is not a DICOM series, so there are no such results.
    """
    if parameters.send_to is None:
        return () if parameters.pacs is None else destinations.results_of(parameters.pacs)
    for name in parameters.send_to:
        destinations.archive(name)
    if parameters.send_to and not dicom:
        raise NotSupported(
            "send_to needs a DICOM series: other scans have no DICOM results to send", supported=["callback_url"]
        )
    return parameters.send_to


def planned_deliveries(
    destinations: Destinations, send_to: tuple[str, ...], callback_url: str | None
) -> tuple[Delivery, ...]:
    """
    Raises:
        CallbackRefused: nothing may be sent to the URL.
        DestinationUnknown: an archive is not configured.
    """
    webhooks = []
    if callback_url is not None:
        parts = destinations.webhooks.rules.check_url(callback_url)
        webhooks.append(Delivery(kind=DeliveryKind.WEBHOOK, destination=str(parts.hostname)))
    return (*webhooks, *(_push(destinations, name) for name in send_to))


def _push(destinations: Destinations, name: str) -> Delivery:
    return Delivery(kind=destinations.archive(name).push_kind, destination=name)
