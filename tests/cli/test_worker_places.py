"""Several workers on one machine each get a device, or their share of the cores; what the operator says is kept."""

import os

import pytest
import torch

from unet_factory_cli.worker_places import DEVICE, METRICS_PORT, THREADS, visible_gpus, worker_places


def never() -> int:
    raise AssertionError("nobody needs to know how many GPUs there are")


def test_a_worker_that_is_alone_is_left_as_it_is() -> None:
    assert list(worker_places(1, {}, never)) == [{}]


@pytest.mark.parametrize("workers", [2, 3, 64])
def test_workers_without_gpus_share_the_cores_and_the_first_shows_the_metrics(workers: int) -> None:
    places = list(worker_places(workers, {}, lambda: 0))
    assert not any(DEVICE in place for place in places)
    threads = {int(place[THREADS]) for place in places}
    assert threads == {max(1, (os.cpu_count() or 1) // workers)}
    assert [place.get(METRICS_PORT) for place in places] == [None] + ["0"] * (workers - 1)


@pytest.mark.parametrize("device", [{}, {DEVICE: "auto"}, {DEVICE: "cuda"}])
@pytest.mark.parametrize(("workers", "gpus"), [(2, 4), (4, 4), (5, 2)])
def test_workers_are_spread_evenly_over_the_gpus(workers: int, gpus: int, device: dict[str, str]) -> None:
    devices = [place[DEVICE] for place in worker_places(workers, device, lambda: gpus)]
    used = [devices.count(f"cuda:{gpu}") for gpu in range(gpus)]
    assert sum(used) == workers
    assert max(used) - min(used) <= 1


@pytest.mark.parametrize("device", ["cpu", "cuda:1"])
def test_a_device_and_threads_that_the_operator_names_hold_for_all(device: str) -> None:
    for place in worker_places(3, {DEVICE: device, THREADS: "2"}, never):
        assert not {DEVICE, THREADS} & set(place)


def test_gpus_are_counted_as_workers_count_them() -> None:
    assert visible_gpus() == torch.cuda.device_count()
