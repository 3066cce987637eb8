"""Versions of models by digest, what is used of the model folder, and the Open Inference Protocol's view of both."""

import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from redis import Redis

from tests.fixtures.settings import FactorySettings
from tests.fixtures.volume_files import write_nifti
from tests.service.conftest import RunGateway
from unet_factory.jobs.presence import WorkerPresence, announce
from unet_factory.jobs.store import JobStore
from unet_factory.platform.model_registry import ModelRegistry


@pytest.fixture
def folder(tmp_path: Path, tiny_models: Path) -> Path:
    """Two versions of one model, the newer in the first file by name, and a file that is none."""
    whole = (tiny_models / "tiny.safetensors").read_bytes()
    for name, written_s, last in (("b", 1000, 1), ("a", 2000, 2)):
        file = tmp_path / f"{name}.safetensors"
        file.write_bytes(whole[:-1] + bytes([last]))
        os.utime(file, (written_s, written_s))
    (tmp_path / "none.safetensors").write_bytes(b"not a checkpoint")
    return tmp_path


@pytest.fixture
def versions(folder: Path) -> list[str]:
    """Digests, the newest last."""
    return [model.digest for model in ModelRegistry(folder).versions("tiny")]


@pytest.fixture
def http(run_gateway: RunGateway, settings: FactorySettings, folder: Path) -> Iterator[httpx.Client]:
    with run_gateway(settings.model_copy(update={"models_dir": folder})) as gateway:
        yield gateway.http


@pytest.fixture
def worker_of_the_old(redis: Redis, versions: list[str]) -> None:
    old = versions[0]
    announce(redis, "old", WorkerPresence(device="cpu", models={f"tiny@{old[:12]}": old}, started=0, pid=1), 600)


def test_a_job_and_its_quote_take_the_version_that_is_asked_for(
    http: httpx.Client, versions: list[str], redis: Redis, tmp_path: Path
) -> None:
    scan = write_nifti(tmp_path / "scan.nii.gz").read_bytes()
    once = {"Idempotency-Key": "one"}
    for asked, digest in (("tiny", versions[-1]), (f"tiny@{versions[0][:12]}", versions[0])):
        answer = http.post("/segmentations", data={"model": asked}, files={"file": scan})
        request = JobStore(redis).request(answer.raise_for_status().json()["id"])
        assert (request.model, request.checkpoint_digest) == ("tiny", digest)
        assert http.post("/quote", json={"model": asked, "shape": [9, 9, 9], "spacing": [1, 1, 1]}).is_success
    pinned = [
        http.post("/segmentations", data={"model": f"tiny@{digest}"}, files={"file": scan}, headers=once).status_code
        for digest in (versions[0], versions[0], versions[1])
    ]
    assert pinned == [202, 202, 409], "another version is another request"


def test_a_network_is_ordered_of_the_version_that_a_worker_has(
    http: httpx.Client, versions: list[str], worker_of_the_old: None
) -> None:
    query, at_once = {"spacing": "1,1,1", "model": f"tiny@{versions[0]}"}, {"Prefer": "wait=0"}
    old = http.get("/unet", params=query, headers=at_once)
    assert (old.status_code, old.headers["X-Checkpoint-Digest"]) == (202, f"sha256:{versions[0]}")
    assert http.get("/unet", params={"spacing": "1,1,1", "model": "tiny"}).status_code == 503


@pytest.mark.parametrize("path", ["/models/{}", "/unet?spacing=1,1,1&model={}", "/v2/models/{}", "/v2/models/{}/ready"])
def test_a_version_that_is_not_there_is_404_with_those_that_are(
    path: str, http: httpx.Client, versions: list[str]
) -> None:
    answer = http.get(path.format("tiny@0123456789ab"))
    assert answer.status_code == 404
    assert answer.json()["available"] == [f"tiny@{digest[:12]}" for digest in versions]


def test_reload_says_what_is_used_where_and_what_is_refused(
    http: httpx.Client, folder: Path, versions: list[str], worker_of_the_old: None
) -> None:
    assert http.get("/models/tiny").json()["versions"] == versions[::-1]
    told = http.post("/models/reload").raise_for_status().json()
    assert [(m["file"], m["digest"], m["newest"], m["workers"]) for m in told["models"]] == [
        ("b.safetensors", versions[0], False, 1),
        ("a.safetensors", versions[1], True, 0),
    ]
    assert told["refused"].keys() == {"none.safetensors"}
    (folder / "a.safetensors").unlink()
    (folder / "none.safetensors").unlink()
    told = http.post("/models/reload").raise_for_status().json()
    assert [m["digest"] for m in told["models"] if m["newest"]] == [versions[0]]
    assert told["refused"] == {}


def test_the_open_inference_protocol_knows_models_and_refuses_tensors(
    http: httpx.Client, versions: list[str], worker_of_the_old: None
) -> None:
    assert http.get("/v2").json().keys() == {"name", "version", "extensions"}
    old, new = versions[0][:12], versions[1][:12]
    metadata = http.get("/v2/models/tiny").json()
    assert metadata["versions"] == [new, old]
    assert http.get(f"/v2/models/tiny/versions/{old}").json() == metadata
    assert http.get(f"/v2/models/tiny/versions/{old}/ready").json() == {"name": "tiny", "ready": True}
    assert http.get("/v2/models/tiny/ready").status_code == 503
    refused = http.post("/v2/models/tiny/infer", json={"inputs": []})
    assert refused.status_code == 501
    assert "POST /segmentations" in refused.json()["detail"]
    assert http.post("/v2/models/nobody/infer", json={}).status_code == 404
