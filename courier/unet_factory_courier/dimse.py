"""An archive over DIMSE: results are stored by C-STORE (DICOM PS3.4 annex B, status codes PS3.7 annex C)."""

import ssl
from collections.abc import Collection, Sequence
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.uid import ImplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.association import Association

from unet_factory.destinations import Dimse, DimseTls
from unet_factory_courier.deadline import Note, deadline
from unet_factory_courier.outcomes import GiveUp, TryAgain

_SUCCESS = 0x0000
_DUPLICATE = 0x0111
_WARNINGS = range(0xB000, 0xC000)
_OUT_OF_RESOURCES = range(0xA700, 0xA800)
_PROCESSING_FAILURE = 0x0110
_NO_CONTEXT = "the archive does not accept such instances (it accepted no presentation context)"


def store(archive: Dimse, files: Sequence[Path]) -> None:
    """Store instances over one association. Storing them again is harmless: their UIDs stay the same.

    Raises:
        TryAgain: no association, or it broke or took too long, or the archive could not take an instance now.
        GiveUp: it refuses one for good.
    """
    datasets = [dcmread(file) for file in files]
    with deadline(archive.deadline_s) as note:
        association = associate(archive, _contexts(datasets), note)
        try:
            for dataset in datasets:
                _store(association, dataset)
        finally:
            if association.is_established:
                association.release()


def _contexts(datasets: Sequence[Dataset]) -> set[tuple[str, str]]:
    """(abstract syntax, transfer syntax) of each kind of instance as it is, and in the one that every archive takes."""
    offered = {(dataset.SOPClassUID, dataset.file_meta.TransferSyntaxUID) for dataset in datasets}
    return offered | {(sop_class, ImplicitVRLittleEndian) for sop_class, syntax in offered if not syntax.is_compressed}


def associate(archive: Dimse, contexts: Collection[tuple[str, str]], note: Note) -> Association:
    """An association that offers these (abstract syntax, transfer syntax).

    Raises:
        TryAgain: there is none: nobody answers, or the archive rejects it.
        GiveUp: it accepts none of the contexts.
    """

    def opened(event: evt.Event) -> None:
        transport = event.assoc.dul.socket
        if transport is not None and transport.socket is not None:
            note(transport.socket)

    entity = AE(ae_title=archive.calling_aet)
    entity.connection_timeout = entity.acse_timeout = entity.dimse_timeout = archive.timeout_s
    entity.network_timeout = archive.timeout_s
    for sop_class, syntax in sorted(contexts):
        entity.add_requested_context(sop_class, syntax)
    tls = None if archive.tls is None else (_tls_context(archive.tls), archive.host)
    association = entity.associate(
        archive.host,
        archive.port,
        ae_title=archive.called_aet,
        tls_args=tls,
        evt_handlers=[(evt.EVT_CONN_OPEN, opened)],
    )
    if association.is_established:
        return association
    if association.rejected_contexts and not association.accepted_contexts:
        raise GiveUp(_NO_CONTEXT)
    raise TryAgain("the archive rejected the association" if association.is_rejected else "no association: no answer")


def _store(association: Association, dataset: Dataset) -> None:
    if not association.is_established:
        raise TryAgain("the association broke")
    try:
        status = association.send_c_store(dataset).get("Status")
    except ValueError:
        raise GiveUp(_NO_CONTEXT) from None
    except RuntimeError:
        raise TryAgain("the association broke") from None
    if status is None:
        raise TryAgain("the archive did not answer the C-STORE")
    _check(int(status))


def _check(status: int) -> None:
    if status in (_SUCCESS, _DUPLICATE) or status in _WARNINGS:
        return
    if status in _OUT_OF_RESOURCES or status == _PROCESSING_FAILURE:
        raise TryAgain(f"the archive could not store an instance: 0x{status:04X}")
    raise GiveUp(f"the archive refused an instance: 0x{status:04X}")


def _tls_context(tls: DimseTls) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=tls.ca_file)
    if tls.cert_file is not None:
        context.load_cert_chain(tls.cert_file, tls.key_file)
    return context
