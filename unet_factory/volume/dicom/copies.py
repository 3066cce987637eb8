"""Two objects under one SOP instance UID: the same image, or two images of which one must not be lost.

What the image shows decides: its pixels, its geometry, its rescale, and whose it is. How the file is written does not:
preamble, meta information, group lengths, transfer syntax, lossless compression; nor do comments and descriptions.
"""

from hashlib import sha256

from unet_factory.domain.errors import FactoryError, GeometryInvalid, NotAVolume
from unet_factory.domain.volume_limits import VolumeLimits
from unet_factory.volume.archive import Archive
from unet_factory.volume.dicom.objects import BROKEN, DicomObject
from unet_factory.volume.dicom.pixels import check_pixels, stored_frames
from unet_factory.volume.dicom.slices import instance_name, slices_of
from unet_factory.volume.dicom.streams import PIECE_BYTES


def is_same_image(archive: Archive, one: DicomObject, other: DicomObject, limits: VolumeLimits) -> bool:
    """Whether two objects of the archive show the same; where their pixels cannot be decoded here, byte for byte."""
    if _file_digest(archive, one) == _file_digest(archive, other):
        return True
    try:
        if _shown(one) != _shown(other):
            return False
        return _pixel_digest(archive, one, limits) == _pixel_digest(archive, other, limits)
    except (GeometryInvalid, NotAVolume):
        return False


def _file_digest(archive: Archive, image: DicomObject) -> bytes:
    digest = sha256()
    with archive.member(image.member) as stream:
        while piece := stream.read(PIECE_BYTES):
            digest.update(piece)
    return digest.digest()


def _shown(image: DicomObject) -> list[tuple[object, ...]]:
    """All but the pixels, of each slice."""
    return [
        (
            *(one.patient_id, one.study, one.frame_of_reference, one.shape, one.identity),
            *(one.position_lps_mm.tolist(), one.cosines.tolist(), one.pixel_mm, one.slope, one.inter),
        )
        for one in slices_of(image)
    ]


def _pixel_digest(archive: Archive, image: DicomObject, limits: VolumeLimits) -> bytes:
    dtype = check_pixels(image, instance_name(image.dataset))
    digest = sha256(dtype.str.encode())
    try:
        for frame in stored_frames(archive, image, range(len(slices_of(image))), limits):
            digest.update(frame.astype(dtype).tobytes())
    except FactoryError:
        raise
    except BROKEN as error:  # damaged, or compressed by a method that this machine has no decoder for
        raise NotAVolume(f"the pixels of {instance_name(image.dataset)} cannot be decoded") from error
    return digest.digest()
