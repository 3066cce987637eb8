"""What segmentation and report have in common: patient, study and times; numbers of series; the file."""

import logging
import warnings
from datetime import datetime
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset

from unet_factory_worker.dicom_results.source import copy_patient_and_study
from unet_factory_worker.dicom_results.verbatim import items_of, written_as_it_is

_MAX_SOURCE_NUMBER = 10_000_000  # a hundred times that is still an integer string
_UNNUMBERED = 90

# both quote values of the scan in warnings and in their logs, and what the scan has, valid or not, is copied as it is
pydicom.config.settings.writing_validation_mode = pydicom.config.IGNORE
logging.getLogger("highdicom").setLevel(logging.CRITICAL + 1)


def series_numbers(header: Dataset) -> tuple[int, int]:
    """Of segmentation and report: the scan's own number with 01 and 02 behind it, so they sort beside it."""
    try:
        number = int(header.SeriesNumber)
    except (AttributeError, TypeError, ValueError):
        number = _UNNUMBERED
    if not 0 < number < _MAX_SOURCE_NUMBER:
        number = _UNNUMBERED
    return 100 * number + 1, 100 * number + 2


def finish(result: Dataset, header: Dataset, moment: datetime) -> None:
    """Give a result its patient and study, and the job's own time in place of the clock's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of character sets that the scan names, and of values
        copy_patient_and_study(header, result)
    result.InstanceCreationDate, result.InstanceCreationTime = moment.strftime("%Y%m%d"), moment.strftime("%H%M%S.%f")
    for equipment in result.ContributingEquipmentSequence:
        equipment.ContributionDateTime = moment.strftime("%Y%m%d%H%M%S.%f")


def save(result: Dataset, path: Path) -> None:
    for item in items_of(result):
        if item.original_encoding == (None, None):  # made here: pydicom would look through it once for each level
            written_as_it_is(item)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of character sets that the scan names, and of values
        result.save_as(path, enforce_file_format=True)
