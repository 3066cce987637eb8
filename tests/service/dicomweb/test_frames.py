"""Single frames by WADO-RS, read by the field's client, against pydicom's own reading of the whole object."""

from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
import pytest
from dicomweb_client.api import DICOMwebClient
from pydicom import Dataset, dcmread

from tests.fixtures.dicom_files import series, zipped
from tests.fixtures.volume_files import affine_ras, phantom
from tests.service.conftest import Gateway

ROWS_AND_COLUMNS_THAT_FILL_NO_BYTE = (9, 11, 13)


@pytest.fixture(params=["binary", "labelmap"])
def job_url(request: pytest.FixtureRequest, http: httpx.Client, worker: None, tmp_path: Path) -> str:
    scan = zipped(series(phantom(ROWS_AND_COLUMNS_THAT_FILL_NO_BYTE), affine_ras()), tmp_path / "a.zip").read_bytes()
    fields = {"seg_type": request.param}
    answer = http.post("/segmentations", files={"file": ("x", scan)}, data=fields, headers={"Prefer": "wait=60"})
    assert answer.json()["state"] == "succeeded", answer.text
    return answer.headers["Location"]


def test_each_frame_has_the_pixels_of_the_whole_object(gateway: Gateway, http: httpx.Client, job_url: str) -> None:
    whole = dcmread(BytesIO(http.get(f"{job_url}/seg").content))
    expected = whole.pixel_array.reshape(-1, whole.Rows, whole.Columns)
    numbers = list(range(len(expected), 0, -1))
    client = DICOMwebClient(f"{gateway.url}/dicomweb")
    found = client.retrieve_instance_frames(
        whole.StudyInstanceUID,
        whole.SeriesInstanceUID,
        whole.SOPInstanceUID,
        numbers,
        media_types=(("application/octet-stream", "1.2.840.10008.1.2.1"),),
    )
    assert len(found) == len(numbers)
    for number, frame in zip(numbers, found, strict=True):
        np.testing.assert_array_equal(pixels(whole, frame), expected[number - 1])


def test_what_is_no_frame_or_cannot_be_drawn_is_refused_in_words(http: httpx.Client, job_url: str) -> None:
    seg = dcmread(BytesIO(http.get(f"{job_url}/seg").content))
    report = dcmread(BytesIO(http.get(f"{job_url}/report").content))
    for path, headers, status in (
        (f"{place(seg)}/frames/0", {}, 404),
        (f"{place(seg)}/frames/{seg.NumberOfFrames + 1}", {}, 404),
        (f"{place(seg)}/frames/1,x", {}, 400),
        (f"{place(seg)}/frames/{'1,' * seg.NumberOfFrames}1", {}, 400),
        (f"{place(seg)}/frames/1", {"Accept": "image/jpeg"}, 406),
        (f"{place(seg)}/frames/1", {"Accept": 'multipart/related; type="application/dicom"'}, 406),
        (f"{place(seg)}x/frames/1", {}, 404),
        (f"{place(report)}/frames/1", {}, 404),
        (f"{place(seg)}/rendered", {}, 501),
        (f"{place(seg)}/frames/1/rendered", {}, 501),
        (f"/dicomweb/studies/{seg.StudyInstanceUID}/rendered", {}, 501),
    ):
        answer = http.get(path, headers=headers)
        assert (answer.status_code, answer.headers["Content-Type"]) == (status, "application/problem+json"), path
    accepted = {"Accept": "multipart/related; type=application/octet-stream; transfer-syntax=*"}  # as OHIF asks
    padded = place(seg).replace(seg.StudyInstanceUID, f"{seg.StudyInstanceUID}%00") + "%00"  # as some viewers ask
    for path in (f"{place(seg)}/frames/1", f"{padded}/frames/1"):
        assert http.get(path, headers=accepted).status_code == 200
    assert http.get(f"/dicomweb/studies/{seg.StudyInstanceUID}%00/series").json()


def pixels(whole: Dataset, frame: bytes) -> np.ndarray:
    if whole.BitsAllocated == 1:
        bits = np.unpackbits(np.frombuffer(frame, np.uint8), bitorder="little")
        assert len(bits) - whole.Rows * whole.Columns < 8
        return bits[: whole.Rows * whole.Columns].reshape(whole.Rows, whole.Columns)
    return np.frombuffer(frame, f"<u{whole.BitsAllocated // 8}").reshape(whole.Rows, whole.Columns)


def place(instance: Dataset) -> str:
    study, series_uid = instance.StudyInstanceUID, instance.SeriesInstanceUID
    return f"/dicomweb/studies/{study}/series/{series_uid}/instances/{instance.SOPInstanceUID}"
