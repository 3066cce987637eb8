"""Shared fixtures: a real server for jobs and cache, a folder of small models, settings that point to both."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from tests.fixtures.settings import FactorySettings
from tests.fixtures.tiny_model import TINY, TinyEnsemble, save_tiny_ensemble, save_tiny_model
from unet_factory.domain.manifest import Manifest
from unet_factory.jobs.lifecycle import JobLifecycle
from unet_factory.platform.blob_store import BlobStore
from unet_factory_cli.embedded import JOBS_OPTIONS, EmbeddedServer


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    server = EmbeddedServer.start(tmp_path_factory.mktemp("redis"), JOBS_OPTIONS)
    yield server
    server.stop()


@pytest.fixture
def redis(redis_server: EmbeddedServer) -> Iterator[Redis]:
    """An empty database."""
    with Redis.from_url(redis_server.redis_url) as client:
        client.flushall()
        yield client


@pytest.fixture
def lifecycle(redis: Redis, settings: FactorySettings) -> JobLifecycle:
    return JobLifecycle(redis, BlobStore(settings.blob_url))


@pytest.fixture(scope="session")
def tiny_manifest() -> Manifest:
    return TINY


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with one small hypernetwork of random weights."""
    folder = tmp_path_factory.mktemp("models")
    save_tiny_model(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_ensemble(tmp_path_factory: pytest.TempPathFactory) -> TinyEnsemble:
    return save_tiny_ensemble(tmp_path_factory.mktemp("ensemble"))


@pytest.fixture
def settings(redis_server: EmbeddedServer, redis: Redis, tiny_models: Path, tmp_path: Path) -> FactorySettings:
    """For one process of the system under test, on empty stores."""
    return FactorySettings(
        redis_url=redis_server.redis_url,
        blob_url=(tmp_path / "blobs").as_uri(),
        models_dir=tiny_models,
        device="cpu",
        lease_s=2.0,
        maintenance_interval_s=0.5,
    )


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of half a megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)]
    if subprocess.run(mount, stderr=subprocess.DEVNULL, check=False).returncode != 0:
        pytest.skip("needs the right to mount a small file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)
