"""Who is let in, for what, and the reasons that the others hear."""

from contextlib import ExitStack

import pytest
from pydicom.uid import JPEG2000, MPEG2MPML, ExplicitVRLittleEndian, MRImageStorage
from pynetdicom import AE

from tests.listener.peer import ACCEPTED, REJECTED, asked, association
from unet_factory_listener import admission
from unet_factory_listener.options import ListenerOptions

CSA = "1.3.12.2.1107.5.9.1"  # Siemens' private objects, which lie among its images
STORAGE_COMMITMENT = "1.2.840.10008.1.20.1"
CALLING, CALLED = bytes([1, 1, 3]), bytes([1, 1, 7])  # result, source, reason: PS3.8 table 9-21
LOCAL_LIMIT = bytes([2, 3, 2])

pytestmark = pytest.mark.usefixtures("spool")


@pytest.mark.parametrize("padding", [b" ", b"\0", b"\0 ", b"\0rest"])
def test_titles_are_known_whatever_pads_them(options: ListenerOptions, padding: bytes) -> None:
    called, calling = (title + padding * 2 for title in (b"UNETFACTORY", b"SCANNER"))
    assert asked(options, called[:16].ljust(16, padding[:1]), calling[:16].ljust(16, padding[:1]))[0] == ACCEPTED


@pytest.mark.parametrize(
    ("called", "calling", "reason", "logged"),
    [
        (b"UNETFACTORY", b"STRANGER", CALLING, "its AE title is not allowed"),
        (b"UNETFACTORY", b"SCANNER2\0", CALLING, "its AE title is not allowed"),
        (b"UNETFACTORY", b"SC\xc4NNER", CALLING, "its AE title is not allowed"),
        (b"UNETFACTORY", bytes(16), CALLING, "its AE title is not allowed"),
        (b"OTHER", b"SCANNER", CALLED, "an AE title other than the listener"),
    ],
)
def test_strangers_hear_the_reason_and_the_log_says_it(
    options: ListenerOptions,
    caplog: pytest.LogCaptureFixture,
    called: bytes,
    calling: bytes,
    reason: bytes,
    logged: str,
) -> None:
    answer = asked(options, called, calling)
    assert answer[0] == REJECTED
    assert answer[7:10] == reason
    assert logged in caplog.text


def test_one_association_too_many_hears_that_this_is_why(
    options: ListenerOptions, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(admission, "ASSOCIATIONS", 3)
    with ExitStack() as opened:
        for _ in range(3):
            opened.enter_context(association(options))
        answer = asked(options)
        assert (answer[0], answer[7:10]) == (REJECTED, LOCAL_LIMIT)
        assert "is already open" in caplog.text
    assert asked(options)[0] == ACCEPTED


def test_private_storage_classes_are_accepted_and_other_services_are_not(options: ListenerOptions) -> None:
    entity = AE(ae_title="SCANNER")
    for sop_class in (MRImageStorage, CSA, STORAGE_COMMITMENT):
        entity.add_requested_context(sop_class, ExplicitVRLittleEndian)
    sender = entity.associate(options.host, options.port, ae_title=options.ae_title)
    assert {context.abstract_syntax for context in sender.accepted_contexts} == {MRImageStorage, CSA}
    sender.release()


def test_of_several_transfer_syntaxes_one_that_can_be_read_is_taken(options: ListenerOptions) -> None:
    entity = AE(ae_title="SCANNER")
    entity.add_requested_context(MRImageStorage, [MPEG2MPML, JPEG2000, ExplicitVRLittleEndian])
    sender = entity.associate(options.host, options.port, ae_title=options.ae_title)
    assert sender.accepted_contexts[0].transfer_syntax == [JPEG2000]
    sender.release()
