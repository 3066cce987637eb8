"""Shared fixtures: a real server for jobs and cache, a folder of small models, settings that point to both."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from tests.fixtures.settings import FactorySettings
from unet_factory.domain.manifest import Architecture, HypernetworkShape, Label, Manifest
from unet_factory.domain.spacing import SpacingGrid
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
    return Manifest(
        name="tiny",
        architecture=Architecture(classes=3, channels=(4, 8), blocks=1),
        hypernetwork=HypernetworkShape(hidden=(4, 4)),
        grid=SpacingGrid.from_mm(0.05, [(0.5, 3.5)] * 3),
        labels=(Label(value=0, name="background"), Label(value=1, name="anterior"), Label(value=2, name="posterior")),
        window=(32, 32, 32),
        licence="CC0-1.0",
        training={"augmentation": {"flip_axes": [0]}},
    )


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory, tiny_manifest: Manifest) -> Path:
    """A model folder with one small hypernetwork of random weights."""
    import torch

    from unet_factory.model.checkpoint import save_checkpoint
    from unet_factory.model.hypernetwork import Hypernetwork

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models")
    hypernetwork = Hypernetwork(tiny_manifest.architecture, tiny_manifest.hypernetwork, tiny_manifest.grid)
    save_checkpoint(folder / "tiny.safetensors", hypernetwork, tiny_manifest)
    return folder


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
