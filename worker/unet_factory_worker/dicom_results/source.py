"""The scan that a result is made of: what of its headers goes into the result, word for word.

highdicom copies a source's attributes too, but it checks, converts and quotes them in warnings on its way, and real
headers hold values that it refuses. So it is given stand-ins with the geometry alone; what is the patient's and the
study's is copied here, as it stands.
"""

from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy

import numpy as np
from pydicom.dataset import Dataset
from pydicom.filewriter import correct_ambiguous_vr_element
from pydicom.tag import BaseTag, Tag
from pydicom.uid import UID, MRImageStorage, generate_uid
from pydicom.valuerep import AMBIGUOUS_VR

from unet_factory.volume.dicom import DicomSeries
from unet_factory.volume.dicom.slices import Slice
from unet_factory_worker.dicom_results.verbatim import copied, decodes_exactly, items_of, written_as_it_is

_OUR_WORDS = ("LO", "UT", "LT", "ST", "SH")
_PATIENT_GROUP = 0x0010
_CLINICAL_TRIAL_GROUP = 0x0012
_OF_THE_SERIES = (0x00120060, 0x00120071, 0x00120072, 0x00120073)  # in the clinical trial group
# Patient, General Study, Patient Study (PS3.3 C.7.1.1, C.7.2.1, C.7.2.2), and what says how to read their values
_COPIED = (
    *("SpecificCharacterSet", "TimezoneOffsetFromUTC", "ReferencedPatientSequence"),
    *("StudyInstanceUID", "StudyDate", "StudyTime", "AccessionNumber", "IssuerOfAccessionNumberSequence"),
    *("StudyID", "StudyDescription", "ProcedureCodeSequence", "ReferencedStudySequence"),
    *("ReferringPhysicianName", "ReferringPhysicianIdentificationSequence"),
    *("ConsultingPhysicianName", "ConsultingPhysicianIdentificationSequence"),
    *("PhysiciansOfRecord", "PhysiciansOfRecordIdentificationSequence"),
    *("NameOfPhysiciansReadingStudy", "PhysiciansReadingStudyIdentificationSequence"),
    *("RequestingService", "RequestingServiceCodeSequence", "ReasonForPerformedProcedureCodeSequence"),
    *("AdmittingDiagnosesDescription", "AdmittingDiagnosesCodeSequence", "AdmissionID"),
    *("IssuerOfAdmissionIDSequence", "ServiceEpisodeID", "ServiceEpisodeDescription"),
    *("IssuerOfServiceEpisodeIDSequence", "ReasonForVisit", "ReasonForVisitCodeSequence"),
)
_NEVER_ABSENT = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("StudyDate", "StudyTime", "AccessionNumber", "StudyID", "ReferringPhysicianName"),
)


def copy_patient_and_study(header: Dataset, result: Dataset) -> None:
    """Give ``result`` the attributes of patient and study of ``header``, exactly, and empty ones that it must have.

    Where our own words (names of labels) are beyond ASCII, the result is in UTF-8 and the patient's texts are
    converted, if they are what their character set says; if not, their bytes stay and our words lose what it lacks.
    """
    for keyword in _NEVER_ABSENT:
        if keyword in result:
            del result[keyword]  # not only its value: highdicom's results share elements with each other
        setattr(result, keyword, "")
    tags = list(_tags_of_patient_and_study(header))
    if not _is_ascii(result) and decodes_exactly(header, tags):
        for tag in tags:
            result[tag] = deepcopy(header[tag])
        result.SpecificCharacterSet = "ISO_IR 192"
        return
    _decide_ambiguous_vrs(result)
    for tag in tags:
        element = copied(header, tag)
        if element is not None:
            result[tag] = element
    written_as_it_is(result)


def stand_ins(series: DicomSeries, indices: Iterable[int]) -> list[Dataset]:
    """The slices of the given indices as single images without a patient, each under its :func:`placeholder`."""
    first = series.slices[0]
    orientation = [float(cosine) for cosine in _plane_item(first, "PlaneOrientationSequence").ImageOrientationPatient]
    measures = pixel_measures(series)
    header = first.source.dataset
    common = Dataset()
    for keyword, value in {
        **dict.fromkeys(_NEVER_ABSENT, ""),
        "SOPClassUID": MRImageStorage,
        "Modality": header.get("Modality", "OT"),
        "StudyInstanceUID": header.StudyInstanceUID,
        "SeriesInstanceUID": header.SeriesInstanceUID,
        "FrameOfReferenceUID": frame_of_reference(series),
        "PositionReferenceIndicator": header.get("PositionReferenceIndicator", ""),
        "ImageOrientationPatient": orientation,
        "PixelSpacing": [measures[0], measures[1]],
        "SliceThickness": measures[2],
        "SpacingBetweenSlices": measures[2],
        "Rows": int(header.Rows),
        "Columns": int(header.Columns),
        **_compression(series.datasets),
    }.items():
        setattr(common, keyword, value)
    return [_stand_in(common, series.slices[index], index) for index in indices]


def placeholder(index: int) -> UID:
    """The SOP instance UID under which highdicom knows slice ``index``; never in a finished result."""
    return UID(f"2.25.{index}")


def frame_of_reference(series: DicomSeries) -> str:
    """The scan's own; images that have none, though they must, share one that follows from their series."""
    header = series.datasets[0]
    return str(header.get("FrameOfReferenceUID") or generate_uid(entropy_srcs=[header.SeriesInstanceUID, "frame"]))


def pixel_measures(series: DicomSeries) -> tuple[float, float, float]:
    """mm between rows, columns and slices, as the frames lie: also where the caller knew the spacing better."""
    first, last = series.slices[0], series.slices[-1]
    columns_mm, rows_mm, slices_mm = np.linalg.norm(series.header.affine[:3, :3], axis=0).tolist()
    if first.pixel_mm is not None:
        columns_mm, rows_mm = first.pixel_mm
    if len(series.slices) > 1:
        across_mm = float((last.position_lps_mm - first.position_lps_mm) @ first.normal)
        slices_mm = across_mm / (len(series.slices) - 1)
    return _decimal(rows_mm), _decimal(columns_mm), _decimal(slices_mm)


def references(series: DicomSeries) -> list[Dataset]:
    """One reference to each object of the scan."""
    return [reference(header) for header in series.datasets]


def reference(header: Dataset) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
    return item


def is_multi_frame(header: Dataset) -> bool:
    return "PerFrameFunctionalGroupsSequence" in header


def _tags_of_patient_and_study(header: Dataset) -> Iterator[BaseTag]:
    copied = {Tag(keyword) for keyword in _COPIED}
    for tag in sorted(header.keys()):
        of_subject = tag.group in (_PATIENT_GROUP, _CLINICAL_TRIAL_GROUP) and tag not in _OF_THE_SERIES
        if of_subject or tag in copied:
            yield tag


def _is_ascii(result: Dataset) -> bool:
    """Whether our own words can be said in any character set."""
    return all(
        str(element.value).isascii()
        for item in (result, *items_of(result))
        for element in item._dict.values()
        if element.VR in _OUR_WORDS
    )


def _decide_ambiguous_vrs(result: Dataset) -> None:
    """As pydicom does when it writes what is not :func:`written_as_it_is`; ours has none but on its top level."""
    for element in list(result._dict.values()):
        if element.VR in AMBIGUOUS_VR:
            correct_ambiguous_vr_element(element, result, is_little_endian=True)


def _stand_in(common: Dataset, one: Slice, index: int) -> Dataset:
    """Its elements are shared with the others, but for its own."""
    dataset = Dataset()
    dataset.update(common)
    dataset.SOPInstanceUID = placeholder(index)
    dataset.ImagePositionPatient = one.position_lps_mm.tolist()
    return dataset


def _plane_item(one: Slice, sequence: str) -> Dataset:
    """Where the header of a slice says something of its plane: for a frame in its functional groups."""
    header = one.source.dataset
    if not is_multi_frame(header):
        return header
    groups = (header.PerFrameFunctionalGroupsSequence[one.frame - 1], *header.get("SharedFunctionalGroupsSequence", ()))
    item: Dataset = next(item for group in groups for item in group.get(sequence, ()))
    return item


def _compression(headers: Sequence[Dataset]) -> dict[str, object]:
    """Lossy once is lossy for ever (PS3.3 C.7.6.1.1.5)."""
    lossy = next((header for header in headers if header.get("LossyImageCompression") == "01"), None)
    if lossy is None:
        return {}
    keywords = ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod")
    return {keyword: lossy[keyword].value for keyword in keywords if keyword in lossy}


def _decimal(mm: float) -> float:
    """Within the 16 characters of a decimal string."""
    return float(f"{mm:.9g}")
