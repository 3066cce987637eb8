"""What STOW-RS answers: which instances were stored, which failed and why (PS3.18 annex I)."""

from collections.abc import Sequence
from enum import IntEnum
from typing import Any, NamedTuple

from pydicom import Dataset


class FailureReason(IntEnum):
    """PS3.18 annex I.2.2, PS3.7 annex C."""

    PROCESSING_FAILURE = 0x0110
    OUT_OF_RESOURCES = 0xA700
    DOES_NOT_MATCH = 0xA900
    CANNOT_UNDERSTAND = 0xC000


class Instance(NamedTuple):
    """Who an instance is; the class may be unknown."""

    study_uid: str
    series_uid: str
    sop_class_uid: str
    sop_instance_uid: str


class FailedInstance(NamedTuple):
    """``instance`` is None for what is no DICOM at all."""

    instance: Instance | None
    reason: FailureReason


def store_answer(stored: Sequence[Instance], failed: Sequence[FailedInstance]) -> tuple[int, dict[str, Any]]:
    """(status, body in the DICOM JSON model): 200 all were stored, 202 some, 409 none.

    Retrieve URLs stay empty: what is received here is worked on, not archived.
    """
    answer = Dataset()
    answer.RetrieveURL = ""
    answer.ReferencedSOPSequence = [_reference(instance) for instance in stored]
    named = [failure for failure in failed if failure.instance is not None]
    if named:
        answer.FailedSOPSequence = [_failure(failure) for failure in named]
    if len(named) < len(failed):
        answer.OtherFailuresSequence = [_failure(failure) for failure in failed if failure.instance is None]
    status = 200 if not failed else 202 if stored else 409
    return status, answer.to_json_dict()


def _reference(instance: Instance) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = instance.sop_class_uid
    item.ReferencedSOPInstanceUID = instance.sop_instance_uid
    item.RetrieveURL = ""
    return item


def _failure(failure: FailedInstance) -> Dataset:
    item = Dataset()
    if failure.instance is not None:
        item.ReferencedSOPClassUID = failure.instance.sop_class_uid
        item.ReferencedSOPInstanceUID = failure.instance.sop_instance_uid
    item.FailureReason = int(failure.reason)
    return item
