"""Uploads that are refused, one by one: each has its status and its problem, and none leaves anything behind."""

import gzip
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest

from tests.fixtures.settings import FactorySettings
from tests.fixtures.volume_files import phantom, write_mha, write_nifti, write_nrrd
from tests.service.conftest import MAX_UPLOAD_BYTES, Gateway, RunGateway, Snapshot, poll

Written = Callable[[Path], Path]

NAN = float("nan")


def nifti(name: str = "scan.nii.gz", **fields: Any) -> Written:
    return lambda folder: write_nifti(folder / name, **fields)


def content(data: bytes) -> Written:
    def write(folder: Path) -> Path:
        (folder / "scan.nii.gz").write_bytes(data)
        return folder / "scan.nii.gz"

    return write


def truncated(folder: Path) -> Path:
    path = write_nifti(folder / "scan.nii.gz")
    path.write_bytes(path.read_bytes()[:-40])
    return path


def truncated_unzipped(folder: Path) -> Path:
    path = write_nifti(folder / "scan.nii")
    path.write_bytes(path.read_bytes()[:-40])
    return path


def bomb(folder: Path) -> Path:
    """Far smaller than the limit for uploads, and says so: more voxels than may be decompressed."""
    side = 300
    return write_nifti(folder / "scan.nii.gz", np.zeros((side, side, side), np.int16))


def lying_bomb(folder: Path) -> Path:
    """Claims a few voxels; behind them come zeros without end."""
    small = gzip.decompress(write_nifti(folder / "scan.nii.gz").read_bytes())
    (folder / "scan.nii.gz").write_bytes(gzip.compress(small + bytes(8 * MAX_UPLOAD_BYTES)))
    return folder / "scan.nii.gz"


def huge_header(folder: Path) -> Path:
    return write_nrrd(folder / "scan.nrrd", comment="x" * (MAX_UPLOAD_BYTES * 3 // 4))


BAD: dict[str, tuple[Written, int, str]] = {
    "empty": (content(b""), 415, "not-a-volume"),
    "text": (content(b"patient,scan\n1,2\n"), 415, "not-a-volume"),
    "picture": (content(b"\x89PNG\r\n\x1a\n" + bytes(400)), 415, "not-a-volume"),
    "zip": (content(b"PK\3\4" + bytes(400)), 415, "not-a-volume"),
    "gzipped text": (content(gzip.compress(b"hello")), 415, "not-a-volume"),
    "truncated gzip": (truncated, 415, "not-a-volume"),
    "truncated": (truncated_unzipped, 415, "not-a-volume"),
    "bomb behind an honest header": (lying_bomb, 415, "not-a-volume"),
    "bomb": (bomb, 413, "volume-too-large"),
    "header claims too much": (nifti(dim=(3, 30000, 30000, 30000, 1, 1, 1, 1)), 413, "volume-too-large"),
    "voxels far away": (nifti(vox_offset=1e9), 415, "not-a-volume"),
    "huge header": (huge_header, 415, "not-a-volume"),
    "2D": (nifti(dim=(2, 5, 42, 1, 1, 1, 1, 1)), 422, "geometry-invalid"),
    "4D": (nifti(dim=(4, 5, 6, 1, 7, 1, 1, 1)), 422, "geometry-invalid"),
    "5D": (nifti(dim=(5, 5, 6, 7, 1, 3, 1, 1)), 422, "geometry-invalid"),
    "no voxels": (nifti(dim=(3, 5, 0, 7, 1, 1, 1, 1)), 422, "geometry-invalid"),
    "NaN spacing": (nifti(pixdim=(1, NAN, 1, 1, 0, 0, 0, 0)), 422, "spacing-invalid"),
    "zero spacing": (nifti(pixdim=(1, 0, 1, 1, 0, 0, 0, 0)), 422, "spacing-invalid"),
    "negative spacing": (nifti(pixdim=(1, -1, 1, 1, 0, 0, 0, 0)), 422, "spacing-invalid"),
    "two spacings": (nifti(pixdim=(1, 9, 9, 9, 0, 0, 0, 0)), 422, "spacing-ambiguous"),
    "NRRD in no space": (
        lambda folder: write_nrrd(folder / "scan.nrrd", space_directions=None, space=None),
        422,
        "spacing-invalid",
    ),
    "MHA of colours": (lambda folder: write_mha(folder / "scan.mha", ElementNumberOfChannels="3"), 415, "not-a-volume"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_volume_is_refused_and_leaves_nothing(
    http: httpx.Client, snapshot: Snapshot, tmp_path: Path, kind: str
) -> None:
    write, status, slug = BAD[kind]
    path = write(tmp_path)
    before = snapshot()
    answer = http.post(
        "/segmentations", files={"file": (path.name, path.read_bytes())}, headers={"Idempotency-Key": "k"}
    )
    assert (answer.status_code, answer.json()["type"]) == (status, f"urn:unet-factory:problem:{slug}")
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert snapshot() == before


@pytest.mark.parametrize("name", ["scan.nrrd", "scan.txt", "../../etc/passwd", "scan\r\nX-Evil: 1", "", "x" * 300])
def test_the_name_of_a_file_counts_for_nothing(
    http: httpx.Client, snapshot: Snapshot, tmp_path: Path, name: str
) -> None:
    scan = write_nifti(tmp_path / "scan.nii.gz").read_bytes()
    answer = http.post("/segmentations", files={"file": (name, scan)})
    assert answer.status_code == 202, answer.text
    files, _ = snapshot()
    job_id = answer.json()["id"]
    assert [file for file in files if job_id in file] == [f"jobs/{job_id}", f"jobs/{job_id}/input.nii.gz"]


@pytest.mark.parametrize(
    ("fields", "status", "slug", "named"),
    [
        ({"budget_seconds": "0"}, 400, "malformed-request", "budget_seconds"),
        ({"budget_bytes": "many"}, 400, "malformed-request", "budget_bytes"),
        ({"callback_url": "https://127.0.0.1/"}, 422, "callback-refused", "allowed are none"),
        ({"send_to": "archive"}, 422, "destination-unknown", "there is none"),
        ({"colour": "red"}, 422, "not-supported", "colour"),
        ({"model": "none"}, 404, "unknown-model", "tiny"),
        ({"spacing": "1,1"}, 422, "spacing-invalid", "three"),
        ({"spacing": "1,1,nan"}, 422, "spacing-invalid", "finite"),
        ({"working_spacing": "0,1,1"}, 422, "spacing-invalid", "above 0"),
        ({"outside": "guess"}, 400, "malformed-request", "clamp"),
        ({"output": "dicom"}, 400, "malformed-request", "nrrd"),
        ({"outside": "reject", "working_spacing": "9,9,9"}, 422, "spacing-out-of-range", "3.5"),
        ({"outside": "reject", "spacing": "0.1,1,1"}, 422, "spacing-out-of-range", "0.5"),
        ({"model": "x" * 5000}, 400, "malformed-request", "4096"),
        ({"spacing": "1000,1000,1000"}, 413, "volume-too-large", "working spacing"),
    ],
)
def test_a_bad_field_is_refused_and_leaves_nothing(
    http: httpx.Client,
    snapshot: Snapshot,
    tmp_path: Path,
    fields: dict[str, str],
    status: int,
    slug: str,
    named: str,
) -> None:
    before = snapshot()
    answer = http.post("/segmentations", data=fields, files=_scan(tmp_path))
    assert (answer.status_code, answer.json()["type"]) == (status, f"urn:unet-factory:problem:{slug}")
    assert named in answer.json()["detail"]
    assert snapshot() == before


def test_parameters_in_the_url_are_not_ignored(http: httpx.Client, tmp_path: Path) -> None:
    answer = http.post("/segmentations", params={"model": "tiny"}, files=_scan(tmp_path))
    assert (answer.status_code, answer.json()["type"]) == (400, "urn:unet-factory:problem:malformed-request")
    answer = http.get("/unet", params=[("spacing", "1,1,1"), ("spacing", "2,2,2")])
    assert (answer.status_code, answer.json()["repeated"]) == (400, ["spacing"])


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/octet-stream", b"\0" * 400),
        ("multipart/form-data", b"--x--"),
        ("multipart/form-data; boundary=" + "x" * 300, b"--x--"),
        ("multipart/form-data; boundary=x", b""),
        ("multipart/form-data; boundary=x", b"nonsense"),
        ("multipart/form-data; boundary=x", b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\nabc'),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: form-data\r\n\r\nabc\r\n--x--\r\n"),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\ntiny\r\n--x--\r\n',
        ),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\n\xff\r\n'
            b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\nabc\r\n--x--\r\n',
        ),
        (
            "multipart/form-data; boundary=x",
            2 * b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\nabc\r\n' + b"--x--\r\n",
        ),
        (
            "multipart/form-data; boundary=x",
            b"".join(b'--x\r\nContent-Disposition: form-data; name="%d"\r\n\r\nabc\r\n' % i for i in range(100))
            + b"--x--\r\n",
        ),
    ],
)
def test_a_bad_form_is_malformed_and_leaves_nothing(
    http: httpx.Client, snapshot: Snapshot, content_type: str, body: bytes
) -> None:
    before = snapshot()
    answer = http.post("/segmentations", content=body, headers={"Content-Type": content_type})
    assert (answer.status_code, answer.json()["type"]) == (400, "urn:unet-factory:problem:malformed-request")
    assert snapshot() == before


@pytest.mark.parametrize("key", ["", "with space", "x" * 256])
def test_a_bad_idempotency_key_is_malformed(http: httpx.Client, snapshot: Snapshot, tmp_path: Path, key: str) -> None:
    before = snapshot()
    answer = http.post("/segmentations", files=_scan(tmp_path), headers={"Idempotency-Key": key})
    assert answer.status_code == 400
    assert snapshot() == before


def test_an_upload_that_announces_too_much_is_refused_before_it_is_sent(gateway: Gateway, snapshot: Snapshot) -> None:
    before = snapshot()
    answer, _ = _post_raw(gateway, {"Content-Length": str(10 * MAX_UPLOAD_BYTES), "Expect": "100-continue"}, b"", 0)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"urn:unet-factory:problem:volume-too-large" in answer
    assert snapshot() == before


def test_an_endless_upload_is_stopped_at_the_limit(gateway: Gateway, snapshot: Snapshot) -> None:
    """Sent without a length, it would never end by itself."""
    before = snapshot()
    start = b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\n'
    answer, sent = _post_raw(gateway, {"Transfer-Encoding": "chunked"}, start, 1000 * MAX_UPLOAD_BYTES)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert sent < 50 * MAX_UPLOAD_BYTES
    assert snapshot() == before


def test_an_upload_that_breaks_off_leaves_nothing(gateway: Gateway, snapshot: Snapshot) -> None:
    before = snapshot()
    host, port = urlsplit(gateway.url).netloc.split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(_head({"Content-Length": "100000"}) + b"--x\r\n" + b"a" * 5000)
    with httpx.Client(base_url=gateway.url) as other:
        assert other.get("/livez").status_code == 200
    poll(lambda: snapshot() == before)


def test_a_full_disk_is_507_and_leaves_nothing(
    run_gateway: RunGateway, settings: FactorySettings, small_disk: Path, tmp_path: Path
) -> None:
    scan = write_nifti(tmp_path / "big.nii", np.zeros((64, 64, 64), np.int16))
    with run_gateway(settings.model_copy(update={"blob_url": small_disk.as_uri()})) as gateway:
        answer = gateway.http.post("/segmentations", files={"file": ("scan", scan.read_bytes())})
        assert (answer.status_code, answer.json()["type"]) == (507, "urn:unet-factory:problem:storage-full")
        assert [path for path in small_disk.rglob("*") if path.is_file()] == []
        assert gateway.http.post("/segmentations", files=_scan(tmp_path)).status_code == 202, "small ones still fit"


def _scan(folder: Path) -> dict[str, tuple[str, bytes]]:
    return {"file": ("scan.nii.gz", write_nifti(folder / "good.nii.gz", phantom()).read_bytes())}


def _head(headers: dict[str, str]) -> bytes:
    lines = {"Host": "x", "Content-Type": "multipart/form-data; boundary=x", **headers}
    return b"POST /segmentations HTTP/1.1\r\n" + b"".join(f"{k}: {v}\r\n".encode() for k, v in lines.items()) + b"\r\n"


def _post_raw(gateway: Gateway, headers: dict[str, str], start: bytes, zeros: int) -> tuple[bytes, int]:
    """Send chunks of zeros until the server answers or hangs up: (its answer, bytes sent)."""
    host, port = urlsplit(gateway.url).netloc.split(":")
    block, sent = bytes(2**16), 0
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(_head(headers) + (_chunk(start) if start else b""))
        try:
            while sent < zeros:
                connection.sendall(_chunk(block))
                sent += len(block)
        except OSError:
            pass
        answer = bytearray()
        try:
            while part := connection.recv(2**16):
                answer += part
        except OSError:
            pass
    return bytes(answer), sent


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def test_a_scan_in_another_field_is_told_where_it_belongs(http: httpx.Client, tmp_path: Path) -> None:
    answer = http.post("/segmentations", files={"scan": _scan(tmp_path)["file"]})
    assert (answer.status_code, answer.json()["type"]) == (400, "urn:unet-factory:problem:malformed-request")
    assert "'file'" in answer.json()["detail"]


@pytest.mark.parametrize("path", ["/segmentation", "/segmentations/"])
def test_a_wrong_path_is_told_where_the_right_ones_are(http: httpx.Client, path: str) -> None:
    answer = http.get(path)
    assert (answer.status_code, "/openapi.json" in answer.json()["detail"]) == (404, True)


def test_a_wrong_method_is_told_the_right_ones(http: httpx.Client) -> None:
    answer = http.put("/segmentations", content=b"scan")
    assert (answer.status_code, answer.headers["Allow"]) == (405, "GET, POST")
    assert answer.json()["detail"] == "this path allows GET, POST, not PUT"
