"""Series by C-STORE into the spool: only whole ones leave it, whatever happens to their senders or to the listener."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian, MRImageStorage
from pynetdicom import AE

from tests.fixtures.dicom_files import mr_series
from tests.listener.peer import association, id_of, instance_of, listener_process, send
from tests.system.processes import until
from unet_factory_listener.options import ListenerOptions
from unet_factory_listener.spool import Spool

QUIET_S, AFTER_ABORT_S = 0.2, 30.0
SUCCESS = 0x0000
CUT_OFF = 7


def test_what_is_answered_as_stored_lies_on_the_disk_whole(spool: Spool, options: ListenerOptions) -> None:
    series = mr_series()
    for dataset in series:
        with association(options) as sender:
            assert send(sender, dataset) == SUCCESS
            (file,) = [file for file in spool.files(id_of(series)) if file.instance_id == instance_of(dataset)]
            assert dcmread(file.path) == dataset
    assert until(lambda: spool.complete(QUIET_S, AFTER_ABORT_S), 5) == [id_of(series)]
    assert sorted(file.instance_id for file in spool.files(id_of(series))) == sorted(map(instance_of, series))


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
def test_every_transfer_syntax_keeps_the_pixels(spool: Spool, options: ListenerOptions, syntax: UID) -> None:
    (dataset,) = mr_series(slices=1)
    dataset.file_meta.TransferSyntaxUID = syntax
    with association(options, syntax=syntax) as sender:
        assert send(sender, dataset) == SUCCESS
    stored = dcmread(spool.files(id_of([dataset]))[0].path)
    assert stored.file_meta.TransferSyntaxUID == syntax
    assert (stored.pixel_array == dataset.pixel_array).all()


@pytest.mark.parametrize(("calling", "called"), [("STRANGER", "UNETFACTORY"), ("SCANNER", "OTHER")])
def test_strangers_are_rejected(spool: Spool, options: ListenerOptions, calling: str, called: str) -> None:
    entity = AE(ae_title=calling)
    entity.add_requested_context(MRImageStorage)
    sender = entity.associate(options.host, options.port, ae_title=called)
    assert sender.is_rejected


def test_an_instance_without_uids_is_refused_and_costs_no_other(spool: Spool, options: ListenerOptions) -> None:
    bad, good = mr_series(slices=2)
    del bad.StudyInstanceUID
    with association(options) as sender:
        assert send(sender, bad) == 0xC000
        assert send(sender, good) == SUCCESS
    assert [file.instance_id for file in spool.files(id_of([good]))] == [instance_of(good)]


@pytest.mark.parametrize("end", ["abort", "close"])
def test_a_series_whose_sender_is_cut_off_waits_and_its_resend_completes_it(
    spool: Spool, options: ListenerOptions, end: str
) -> None:
    series = mr_series()
    dying = multiprocessing.get_context("spawn").Process(target=send_and_die, args=(options, series[:2], end))
    dying.start()
    dying.join(60)
    assert dying.exitcode == CUT_OFF
    assert len(spool.files(id_of(series))) == 2
    time.sleep(4 * QUIET_S)
    assert spool.complete(QUIET_S, AFTER_ABORT_S) == []
    assert spool.complete(QUIET_S, QUIET_S) == [id_of(series)]
    with association(options) as sender:
        assert [send(sender, dataset) for dataset in series] == [SUCCESS] * len(series)
    assert until(lambda: spool.complete(QUIET_S, AFTER_ABORT_S), 5) == [id_of(series)]
    assert len(spool.files(id_of(series))) == len(series)


def test_a_series_waits_for_its_open_association_and_not_for_that_of_another(
    spool: Spool, options: ListenerOptions
) -> None:
    first, second = mr_series(seed=1), mr_series(seed=2)
    with association(options) as sender, association(options) as other:
        assert {send(sender, dataset) for dataset in first} | {send(other, dataset) for dataset in second} == {SUCCESS}
        other.release()
        assert until(lambda: spool.complete(QUIET_S, AFTER_ABORT_S), 5) == [id_of(second)]
    assert until(lambda: len(spool.complete(QUIET_S, AFTER_ABORT_S)) == 2, 5)


def test_what_is_sent_again_while_it_is_forwarded_stays(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    for content in (b"first", b"second"):
        file = spool.incoming / "received"
        file.write_bytes(content)
        spool.put("series", "instance", file)
        if content == b"first":
            seen = spool.files("series")
    spool.remove(seen)
    assert [file.path.read_bytes() for file in spool.files("series")] == [b"second"]
    spool.remove(spool.files("series"))
    spool.tidy(keep_refused_s=60)
    assert spool.complete(0, 0) == []
    assert not list(tmp_path.rglob("*.dcm"))


@pytest.mark.system
def test_kill_9_in_the_middle_of_a_series_loses_nothing_that_was_answered(options: ListenerOptions) -> None:
    series = mr_series()
    process = listener_process(options)
    try:
        with association(options) as sender:
            assert [send(sender, dataset) for dataset in series[:2]] == [SUCCESS] * 2
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            until(lambda: not sender.is_established, 10)
        process = listener_process(options)
        spool = Spool(options.spool)
        assert {file.instance_id for file in spool.files(id_of(series))} == {instance_of(one) for one in series[:2]}
        time.sleep(2 * QUIET_S)
        assert spool.complete(QUIET_S, AFTER_ABORT_S) == []
        process.terminate()
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()


def send_and_die(options: ListenerOptions, series: list[Dataset], end: str) -> None:
    """In a process of its own, so that its end is a real one."""
    with association(options) as sender:
        assert [send(sender, dataset) for dataset in series] == [SUCCESS] * len(series)
        if end == "abort":
            sender.abort()
        os._exit(CUT_OFF)
