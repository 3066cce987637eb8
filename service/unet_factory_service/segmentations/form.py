"""The text fields of a segmentation request, each understood or refused."""

from collections.abc import Mapping

from unet_factory.domain.jobs import PacsSeries
from unet_factory.domain.segmentation_parameters import PARAMETERS, SegmentationParameters
from unet_factory_service.errors import NotSupported
from unet_factory_service.segmentations.upload import FILE_FIELD

_QUOTED_CHARACTERS = 100


def read_form(fields: Mapping[str, str]) -> SegmentationParameters:
    """What the caller wants done with the scan.

    Raises:
        NotSupported: a field that is not a parameter.
        FactoryError: a value that is not allowed, as :meth:`SegmentationParameters.from_texts`.
    """
    if unknown := sorted(name[:_QUOTED_CHARACTERS] for name in fields.keys() - PARAMETERS.keys()):
        supported = [FILE_FIELD, *sorted(PARAMETERS)]
        raise NotSupported(
            f"not supported: {', '.join(unknown)}; the form may have {', '.join(supported)}",
            unsupported=unknown,
            supported=supported,
        )
    return SegmentationParameters.from_texts(fields)


def archived_series(parameters: SegmentationParameters) -> PacsSeries | None:
    """The series in an archive that is to be segmented; None where the scan is uploaded."""
    pacs, study_uid, series_uid = parameters.pacs, parameters.study_uid, parameters.series_uid
    if pacs is None or study_uid is None or series_uid is None:
        return None
    return PacsSeries(pacs=pacs, study_uid=study_uid, series_uid=series_uid)
