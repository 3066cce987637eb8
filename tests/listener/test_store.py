"""What C-STORE answers: success only for what lies in the spool and will be taken, otherwise why not; within bounds."""

import re
import shutil
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import DeflatedExplicitVRLittleEndian, generate_uid
from pynetdicom.dsutils import encode

from tests.fixtures.dicom_files import mr_series
from tests.listener.peer import association, id_of, listener_process, send, send_encoded
from unet_factory_listener.options import ListenerOptions
from unet_factory_listener.scp import listening
from unet_factory_listener.spool import Spool

SUCCESS, OUT_OF_RESOURCES, DOES_NOT_MATCH, CANNOT_UNDERSTAND = 0x0000, 0xA700, 0xA900, 0xC000
CSA = "1.3.12.2.1107.5.9.1"
BOMB_BYTES, MEMORY_BYTES = 2000 * 2**20, 300 * 2**20


def test_private_storage_classes_are_stored(spool: Spool, options: ListenerOptions) -> None:
    (dataset,) = mr_series(slices=1, SOPClassUID=CSA)
    with association(options, sop_class=CSA) as sender:
        assert send(sender, dataset) == SUCCESS
    assert len(spool.files(id_of([dataset]))) == 1


def test_another_instance_than_the_request_says_is_refused(spool: Spool, options: ListenerOptions) -> None:
    (dataset,) = mr_series(slices=1)
    content = encode(dataset, False, True) or b""
    with association(options) as sender:
        assert send_encoded(sender, content, dataset.SOPClassUID, generate_uid()) == DOES_NOT_MATCH
    assert not spool.files(id_of([dataset]))


def test_no_room_on_the_disk_is_told_and_nothing_stays(options: ListenerOptions) -> None:
    full = replace(options, keep_free_bytes=shutil.disk_usage(options.spool.parent).total)
    spool = Spool(full.spool)
    with listening(full, spool), association(full) as sender:
        assert send(sender, mr_series(slices=1)[0]) == OUT_OF_RESOURCES
    assert not list(full.spool.rglob("*.dcm"))


def test_an_instance_beyond_the_limit_is_cut_off(options: ListenerOptions) -> None:
    small = replace(options, max_instance_bytes=2**20)
    (dataset,) = mr_series(slices=1, extent=2048)
    with listening(small, Spool(small.spool)), association(small) as sender:
        assert "Status" not in sender.send_c_store(dataset)
    assert not list(small.spool.rglob("*.dcm"))


@pytest.mark.parametrize("instance_uid", ["1.2.03.004.5", "1." + "2" * 62])
def test_uids_are_read_leniently_and_kept_as_they_are(
    spool: Spool, options: ListenerOptions, instance_uid: str
) -> None:
    (dataset,) = mr_series(slices=1, SOPInstanceUID=instance_uid)
    content = encode(dataset, False, True) or b""
    with association(options) as sender:
        assert send_encoded(sender, content, dataset.SOPClassUID, instance_uid) == SUCCESS
    (file,) = spool.files(id_of([dataset]))
    assert dcmread(file.path).SOPInstanceUID == instance_uid


@pytest.mark.system
@pytest.mark.slow
def test_a_deflated_bomb_is_refused_within_bounded_memory(options: ListenerOptions) -> None:
    (dataset,) = mr_series(slices=1)
    process = listener_process(options)
    try:
        with association(options, syntax=DeflatedExplicitVRLittleEndian) as sender:
            answer = send_encoded(sender, bomb(dataset), dataset.SOPClassUID, dataset.SOPInstanceUID)
        assert answer == CANNOT_UNDERSTAND
        assert peak_bytes(process.pid) < MEMORY_BYTES
    finally:
        process.terminate()
        assert process.wait(10) == 0


@pytest.mark.system
def test_the_log_names_no_uid_and_no_patient(options: ListenerOptions) -> None:
    process = listener_process(options)
    good, bad, odd = mr_series(slices=3)
    del bad.SeriesInstanceUID
    content = encode(odd, False, True) or b""
    try:
        with association(options) as sender:
            assert [send(sender, one) for one in (good, bad)] == [SUCCESS, CANNOT_UNDERSTAND]
            assert send_encoded(sender, content, odd.SOPClassUID, "1.2.0003.04.5.6.7.8") == DOES_NOT_MATCH
        assert not list((options.spool / "incoming").iterdir())
    finally:
        process.terminate()
        process.wait(10)
    log = (options.spool.parent / "listener.log").read_text()
    assert "an instance was refused (C000)" in log
    assert not re.search(r"\d+(\.\d+){5,}", log)
    assert "TEST-0" not in log


def bomb(dataset: Dataset) -> bytes:
    """Deflated, and with a private element before the pixels that inflates to ``BOMB_BYTES`` of zeros."""
    del dataset.PixelData
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    pieces = [compressor.compress(encode(dataset, False, True) or b"")]
    pieces.append(compressor.compress(struct.pack("<HH2sHI", 0x0029, 0x1010, b"OB", 0, BOMB_BYTES)))
    pieces += [compressor.compress(bytes(2**20)) for _ in range(BOMB_BYTES // 2**20)]
    return b"".join([*pieces, compressor.flush()])


def peak_bytes(pid: int) -> int:
    """The most physical memory that a process has had."""
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024
