"""What the listener's tests send: associations by pynetdicom, and bytes by hand where a library would not send them."""

import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO

from pydicom import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE

from tests.system.processes import until
from unet_factory.domain.uids import uid_digest
from unet_factory_listener.options import ListenerOptions

ACCEPTED, REJECTED, ABORTED, CLOSED = 0x02, 0x03, 0x07, 0x00
_RELEASE = bytes.fromhex("05000000000400000000")
_VERIFICATION, _IMPLICIT = b"1.2.840.10008.1.1", b"1.2.840.10008.1.2"


@contextmanager
def association(
    options: ListenerOptions, syntax: str = ExplicitVRLittleEndian, sop_class: str = MRImageStorage
) -> Iterator[Association]:
    """Released at the end of the block, if it still stands."""
    entity = AE(ae_title="SCANNER")
    entity.add_requested_context(sop_class, syntax)
    sender = entity.associate(options.host, options.port, ae_title=options.ae_title)
    assert sender.is_established
    wrapped = sender.dul.socket
    assert wrapped is not None
    assert wrapped.socket is not None
    with wrapped.socket:  # the library leaves it open when the listener has closed it first
        yield sender
        if sender.is_established:
            sender.release()


def send(sender: Association, dataset: Dataset) -> int:
    """The status that the listener answers."""
    return int(sender.send_c_store(dataset).Status)


def listener_process(options: ListenerOptions) -> "subprocess.Popen[bytes]":
    arguments = ["--allow", options.allowed[0], "--spool", str(options.spool), "--port", str(options.port)]
    command = [sys.executable, "-m", "unet_factory_cli", "dicom-listen", *arguments, "--url", options.gateway_url]
    log = options.spool.parent / "listener.log"
    with log.open("wb") as stderr:
        process = subprocess.Popen(command, stderr=stderr)
    until(lambda: "listening" in log.read_text() or process.poll() is not None, 60)
    assert process.poll() is None, log.read_text()
    return process


def send_encoded(sender: Association, encoded: bytes, class_uid: str, instance_uid: str) -> int:
    """The status that the listener answers to a data set as it is, which the request may call something else."""
    request = C_STORE()
    request.MessageID, request.Priority = 1, 2
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = UID(class_uid), UID(instance_uid)
    request.DataSet = BytesIO(encoded)
    sender._reactor_checkpoint.clear()  # or its own thread takes the answer, as in Association.send_c_store
    sender.dimse.send_msg(request, sender.accepted_contexts[0].context_id or 0)
    _, answer = sender.dimse.get_msg(block=True)
    sender._reactor_checkpoint.set()
    assert answer is not None
    return int(answer.Status or 0)


def id_of(series: list[Dataset]) -> str:
    return uid_digest(series[0].StudyInstanceUID, series[0].SeriesInstanceUID)


def instance_of(dataset: Dataset) -> str:
    return uid_digest(dataset.SOPInstanceUID)


def connected(options: ListenerOptions) -> socket.socket:
    return socket.create_connection((options.host, options.port), 10)


def asked(options: ListenerOptions, called: bytes = b"UNETFACTORY", calling: bytes = b"SCANNER") -> bytes:
    """The PDU that answers an association request with these titles, padded by spaces where they are short."""
    with connected(options) as peer:
        peer.sendall(request(called, calling))
        answer = peer.recv(4096)
        if answer[:1] == bytes([ACCEPTED]):
            peer.sendall(_RELEASE)
            peer.recv(16)
        return answer


def request(called: bytes = b"UNETFACTORY", calling: bytes = b"SCANNER") -> bytes:
    """An A-ASSOCIATE-RQ for C-ECHO (PS3.8 table 9-11)."""
    syntaxes = _item(0x30, _VERIFICATION) + _item(0x40, _IMPLICIT)
    context = _item(0x20, bytes([1, 0, 0, 0]) + syntaxes)
    user = _item(0x50, _item(0x51, struct.pack(">I", 16384)) + _item(0x52, UID("1.2.826.0.1").encode()))
    titles = called.ljust(16) + calling.ljust(16) + bytes(32)
    body = struct.pack(">HH", 1, 0) + titles + _item(0x10, b"1.2.840.10008.3.1.1.1") + context + user
    return struct.pack(">BBI", 1, 0, len(body)) + body


def _item(kind: int, content: bytes) -> bytes:
    return struct.pack(">BBH", kind, 0, len(content)) + content
