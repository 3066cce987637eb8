"""From the objects of an archive to the images of one series: each once, and no other kind among them."""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar

from unet_factory.domain.errors import NotAVolume, SeriesMixed, SlicesInconsistent
from unet_factory.domain.uids import unpadded
from unet_factory.domain.volume_limits import VolumeLimits
from unet_factory.volume.archive import Archive
from unet_factory.volume.dicom.copies import is_same_image
from unet_factory.volume.dicom.objects import DicomObject, read_object, readable
from unet_factory.volume.dicom.slices import instance_name
from unet_factory.volume.dicom.values import texts
from unet_factory.volume.dicom_start import HEAD_BYTES, is_debris, is_dicom

Key = TypeVar("Key", bound=Hashable)
Item = TypeVar("Item")


def images_of_series(
    archive: Archive, limits: VolumeLimits, series_uid: str | None
) -> tuple[list[DicomObject], tuple[str, ...]]:
    """The images of the one series in the archive, or of the one named, and notes of what was left aside.

    Raises:
        NotAVolume: no image among the members, or a damaged DICOM object.
        SeriesMixed: several series and none named, or not the one named.
        SlicesInconsistent: two different images under one identity.
    """
    with readable("a DICOM object"):
        objects, others = _objects(archive, limits)
        return _chosen(archive, objects, others, series_uid, limits)


def grouped(items: Iterable[Item], key: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    groups: dict[Key, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def series_uid_of(image: DicomObject) -> str:
    """As it stands, without padding; what is no UID tells series apart as well."""
    return "\\".join(texts(image.dataset, "SeriesInstanceUID"))


def counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _chosen(
    archive: Archive, objects: list[DicomObject], others: int, series_uid: str | None, limits: VolumeLimits
) -> tuple[list[DicomObject], tuple[str, ...]]:
    images = [found for found in objects if found.is_image]
    if not images:
        found = _counted(found.modality for found in objects) or "a directory"
        raise NotAVolume(f"there is no image among the DICOM objects ({found})")
    series = _one_series(images, series_uid)
    distinct, copies = _without_copies(archive, series, limits)
    kept = _without_renamed_copies(archive, distinct, limits)
    scans = [image for image in kept if not _is_localizer(image)] or kept
    notes = (
        _note(others, "ignored {} other than DICOM objects", "file"),
        _note(len(objects) - len(images), "ignored {} other than images", "DICOM object"),
        _note(len(images) - len(series), "ignored {} of other series", "image"),
        _note(copies, "ignored {} sent twice", "image"),
        _note(len(distinct) - len(kept), "ignored {} sent twice under different SOP instance UIDs", "image"),
        _note(len(kept) - len(scans), "ignored {} marked as localizer", "image"),
    )
    return scans, tuple(note for note in notes if note)


def _objects(archive: Archive, limits: VolumeLimits) -> tuple[list[DicomObject], int]:
    """All DICOM objects, and how many members are something else. A DICOMDIR is neither, and what a file manager
    leaves beside the scans is not worth a word."""
    objects, others = [], 0
    for index in range(len(archive)):
        head = archive.head(index, HEAD_BYTES)
        if not is_dicom(head):
            others += not is_debris(head)
            continue
        with archive.member(index) as stream:
            found = read_object(stream, limits, member=index)
        if not found.is_directory:
            objects.append(found)
    return objects, others


def _one_series(images: list[DicomObject], series_uid: str | None) -> list[DicomObject]:
    by_series = grouped(images, series_uid_of)
    if series_uid is None and len(by_series) == 1:
        return images
    wanted = unpadded(series_uid or "")
    if wanted in by_series:
        return by_series[wanted]
    found = [
        {"modality": _counted(image.modality for image in series), "images": len(series)}
        for series in by_series.values()
    ]
    listed = "; ".join(str(entry["modality"]) for entry in found)
    if series_uid is not None:
        raise SeriesMixed(f"the named series is not among those sent: {listed}", series=found)
    raise SeriesMixed(
        f"there are {len(by_series)} series with images: {listed}; send one of them, or name it by series_uid",
        series=found,
    )


def _without_copies(archive: Archive, images: list[DicomObject], limits: VolumeLimits) -> tuple[list[DicomObject], int]:
    """Each SOP instance once, and how many copies were dropped."""
    kept: list[DicomObject] = []
    for uid, same in grouped(images, _instance_key).items():
        if uid and not all(is_same_image(archive, same[0], other, limits) for other in same[1:]):
            raise SlicesInconsistent(
                f"{instance_name(same[0].dataset)} was sent {len(same)} times under one identity, with other content"
            )
        kept += same[:1] if uid else same
    return kept, len(images) - len(kept)


def _without_renamed_copies(archive: Archive, images: list[DicomObject], limits: VolumeLimits) -> list[DicomObject]:
    """Each image once, as some archives and export tools give every copy a SOP instance UID of its own."""
    kept: list[DicomObject] = []
    for place, same in grouped(images, lambda image: texts(image.dataset, "ImagePositionPatient")).items():
        renamed = place and all(is_same_image(archive, same[0], other, limits) for other in same[1:])
        kept += same[:1] if renamed else same
    return kept


def _instance_key(image: DicomObject) -> str:
    return "\\".join(texts(image.dataset, "SOPInstanceUID"))


def _is_localizer(image: DicomObject) -> bool:
    return "LOCALIZER" in texts(image.dataset, "ImageType")


def _counted(modalities: Iterable[str]) -> str:
    return ", ".join(f"{count} {modality}" for modality, count in sorted(Counter(modalities).items()))


def _note(count: int, template: str, noun: str) -> str:
    return template.format(counted(count, noun)) if count else ""
