"""Which instance a received file holds, by the gateway's own reader and rule for UIDs: it stores what passes here."""

from pathlib import Path
from typing import NamedTuple

from unet_factory.domain.errors import NotAVolume
from unet_factory.domain.uids import read_uid
from unet_factory.volume.dicom import read_object
from unet_factory.volume.dicom.objects import readable

_KEYWORDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID", "SOPInstanceUID")
_REQUESTED = ("MediaStorageSOPClassUID", "MediaStorageSOPInstanceUID")


class DoesNotMatch(Exception):
    """The data set is another instance than its C-STORE request says."""


class Identity(NamedTuple):
    """UIDs without their padding."""

    study_uid: str
    series_uid: str
    class_uid: str
    instance_uid: str


def identify(file: Path) -> Identity:
    """The instance in ``file``, whose meta information the library has made from the C-STORE request.

    Raises:
        NotAVolume: it cannot be read, or one of its UIDs is missing or not a UID.
        VolumeTooLarge: its header, or what it inflates to, is beyond the limits of an upload.
        DoesNotMatch: the meta information names another instance.
    """
    with file.open("rb") as stream:
        dataset = read_object(stream).dataset
    with readable("an instance"):
        uids = [read_uid(str(dataset.get(keyword) or "")) for keyword in _KEYWORDS]
        requested = [read_uid(str(dataset.file_meta.get(keyword) or "")) for keyword in _REQUESTED]
    if None in uids:
        raise NotAVolume("the UID of its study, its series, its SOP class or the instance itself is missing or invalid")
    identity = Identity(*map(str, uids))
    if requested != [identity.class_uid, identity.instance_uid]:
        raise DoesNotMatch("the SOP class or instance UID of its data set differs from that of its C-STORE request")
    return identity
