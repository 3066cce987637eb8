"""GPU figures are read when they are asked for, and are simply absent where there is no GPU."""

from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from unet_factory.platform.gpus import GpuFigures, gpus
from unet_factory.platform.metrics import scrape_registry


def test_figures_are_of_every_gpu_that_torch_sees_and_of_none_without_one() -> None:
    import torch

    if not torch.cuda.is_available():
        assert gpus() == []
        assert b"unet_factory_gpu_memory_used_bytes" not in generate_latest(scrape_registry())
        return
    there = {torch.cuda.get_device_properties(index).name for index in range(torch.cuda.device_count())}
    found = gpus()
    assert there <= {gpu.name for gpu in found}
    for gpu in found:
        assert 0 <= gpu.used_bytes <= gpu.capacity_bytes
        assert gpu.utilisation is None or 0 <= gpu.utilisation <= 1
    assert b"unet_factory_gpu_memory_capacity_bytes" in generate_latest(scrape_registry())


def test_a_scrape_shows_gpus_with_several_processes_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    registry = CollectorRegistry()
    registry.register(GpuFigures())
    assert generate_latest(registry) in generate_latest(scrape_registry())
