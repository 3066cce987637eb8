"""Multipart bodies as clients write them: preambles, epilogues, quoted and other parameters."""

from itertools import pairwise
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fixtures.dicom_files import mr_series
from tests.fixtures.volume_files import write_nifti
from tests.service.dicomweb.test_dicomweb_store import encoded
from unet_factory.domain.errors import MalformedRequest
from unet_factory_service.segmentations.upload import MAX_PREAMBLE_BYTES, Preamble

QUOTED = 'multipart/related; type="application/dicom"; boundary="a b:c=?"; start="<1>"; start-info="x;boundary=z"'
PREAMBLE = b"This is a multi-part message.\r\n--a b:c=? is the boundary\r\n--a b:c=?x\r\n"
EPILOGUE = b"\r\nNothing more.\r\n--a b:c=?\r\n\r\nnot a part"
PATHS = {"/segmentations": 202, "/dicomweb/studies": 200}


def body(preamble: bytes = b"", epilogue: bytes = b"", padding: bytes = b"") -> bytes:
    parts = [b"\r\nContent-Type: application/dicom\r\n\r\n" + encoded(dataset) + b"\r\n" for dataset in mr_series()]
    return preamble + b"--a b:c=?" + padding + b"--a b:c=?".join(parts) + b"--a b:c=?--" + epilogue


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("preamble", "epilogue", "padding"),
    [
        (b"", b"", b""),
        (b"\r\n", b"\r\n", b""),
        (PREAMBLE, b"\r\n", b""),
        (PREAMBLE, EPILOGUE, b" \t"),
        (b"", EPILOGUE, b""),
    ],
)
def test_what_stands_around_the_parts_is_left_out(
    http: httpx.Client, path: str, preamble: bytes, epilogue: bytes, padding: bytes
) -> None:
    content = body(preamble, epilogue, padding)
    answer = http.post(path, content=content, headers={"Content-Type": QUOTED})
    assert answer.status_code == PATHS[path], answer.text
    if path == "/dicomweb/studies":
        assert len(answer.json()["00081199"]["Value"]) == len(mr_series())


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("content", [b"", PREAMBLE, b"x" * (MAX_PREAMBLE_BYTES + 1), b"--a b:c=?--\r\n"])
def test_a_body_without_parts_is_refused(http: httpx.Client, path: str, content: bytes) -> None:
    answer = http.post(path, content=content, headers={"Content-Type": QUOTED})
    assert (answer.status_code, answer.headers["Content-Type"]) == (400, "application/problem+json")


@pytest.mark.parametrize("preamble", [b"\r\n", PREAMBLE])
def test_what_stands_around_the_fields_of_a_form_is_left_out(
    http: httpx.Client, tmp_path: Path, preamble: bytes
) -> None:
    scan = write_nifti(tmp_path / "scan.nii.gz").read_bytes()
    disposition = b'\r\nContent-Disposition: form-data; name="'
    fields = disposition + b'model"\r\n\r\ntiny\r\n', disposition + b'file"; filename="x"\r\n\r\n' + scan + b"\r\n"
    content = preamble + b"".join(b"--a b:c=?" + field for field in fields) + b"--a b:c=?--" + EPILOGUE
    headers = {"Content-Type": 'multipart/form-data; boundary="a b:c=?"'}
    answer = http.post("/segmentations", content=content, headers=headers)
    assert (answer.status_code, answer.json()["model"]) == (202, "tiny"), answer.text


@given(
    preamble=st.lists(st.sampled_from([b"text", b"--b", b"--bx", b"\n--b", b"--", b"\r"])).map(b"\r\n".join),
    cuts=st.lists(st.integers(0, 60)),
)
def test_a_preamble_ends_at_the_first_whole_delimiter_line_however_it_comes(preamble: bytes, cuts: list[int]) -> None:
    """Against the standard's words, line by line."""
    rest = b"--b\r\n\r\ndata\r\n--b--"
    whole = preamble + b"\r\n" + rest
    lines = whole.split(b"\r\n")
    first = next(number for number, line in enumerate(lines) if line == b"--b")
    marks = [0, *sorted(cut for cut in cuts if cut < len(whole)), len(whole)]
    stripper = Preamble(b"b")
    found = b"".join(stripper.strip(whole[start:end]) for start, end in pairwise(marks))
    assert found == b"\r\n".join(lines[first:])


def test_a_preamble_without_end_is_refused() -> None:
    with pytest.raises(MalformedRequest, match="boundary"):
        Preamble(b"b").strip(b"x" * (MAX_PREAMBLE_BYTES + 1))
