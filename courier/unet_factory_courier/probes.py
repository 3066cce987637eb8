"""Asking an archive whether it would work with us, without storing or fetching anything."""

import requests
from pydicom.uid import ImplicitVRLittleEndian
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from unet_factory.destinations import DicomWeb, Dimse
from unet_factory_courier.deadline import deadline
from unet_factory_courier.dicomweb import client_of, failures
from unet_factory_courier.dimse import associate
from unet_factory_courier.outcomes import TryAgain, check_status

_ONE_PIECE = 2**20
# An archive may refuse an empty store request however it likes; these mean that a full one would fare no better.
_UNABLE = {401, 403, 404, 405, 501}


def echo(archive: Dimse) -> None:
    """Verify by C-ECHO (DICOM PS3.4 annex A).

    Raises:
        TryAgain: no association, or no answer.
        GiveUp: the archive does not offer verification.
    """
    with deadline(archive.deadline_s) as note:
        association = associate(archive, [(Verification, ImplicitVRLittleEndian)], note)
        try:
            status = association.send_c_echo().get("Status")
        finally:
            association.release()
        if status != 0:
            raise TryAgain("the archive does not answer C-ECHO" if status is None else f"C-ECHO status 0x{status:04X}")


def search(archive: DicomWeb) -> None:
    """Search for one study by QIDO-RS (DICOM PS3.18 section 10.6); finding none is an answer too.

    Raises:
        TryAgain: the archive cannot be reached, or answers with an error that can be mended.
        GiveUp: it answers with another error.
    """
    with client_of(archive, _ONE_PIECE) as client, failures(_refused):
        client.search_for_studies(limit=1)


def offer(archive: DicomWeb) -> None:
    """Send a STOW-RS request without instances (DICOM PS3.18 section 10.5).

    Raises:
        TryAgain: the archive cannot be reached, does not let us store, or has no such service there.
        GiveUp: it redirects.
    """
    answers: list[requests.Response] = []
    with client_of(archive, _ONE_PIECE, answers.append) as client, failures(_refused_whatever_it_holds):
        client.store_instances([])
    if not answers:
        raise TryAgain("the archive did not answer")


def _refused_whatever_it_holds(answer: requests.Response) -> None:
    if answer.status_code in _UNABLE or 300 <= answer.status_code < 400:
        _refused(answer)


def _refused(answer: requests.Response) -> None:
    check_status(answer.status_code)
