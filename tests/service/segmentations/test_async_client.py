"""The asynchronous client with a real gateway and worker: it gets what the synchronous one gets."""

import asyncio
from pathlib import Path

import httpx
import nibabel
import numpy as np
import pytest

from tests.service.conftest import Gateway
from tests.service.keyed import small_scan
from unet_factory.domain.jobs import Job, JobState
from unet_factory_client import AsyncFactoryClient, FactoryClient, FactoryProblem, SegmentationParameters
from unet_factory_client.files import Scan


@pytest.mark.usefixtures("worker")
def test_several_scans_at_a_time_give_the_label_maps_of_the_synchronous_client(
    gateway: Gateway, tmp_path: Path
) -> None:
    path = small_scan(tmp_path)
    with FactoryClient(gateway.url) as client:
        client.segment(path, tmp_path / "expected.nii.gz")
    heard: list[Job] = []

    async def segment_all() -> tuple[list[Job], list[Job]]:
        async with AsyncFactoryClient(gateway.url) as client:
            scans: tuple[Scan, ...] = (path, str(path), nibabel.Nifti1Image.from_filename(path))
            jobs = await asyncio.gather(
                *(
                    client.segment(scan, tmp_path / f"{n}.nii.gz", on_progress=heard.append)
                    for n, scan in enumerate(scans)
                )
            )
            return jobs, [job async for job in client.jobs(JobState.SUCCEEDED, page_size=1)]

    jobs, listed = asyncio.run(segment_all())
    expected = nibabel.Nifti1Image.from_filename(tmp_path / "expected.nii.gz")
    for n, job in enumerate(jobs):
        found = nibabel.Nifti1Image.from_filename(tmp_path / f"{n}.nii.gz")
        np.testing.assert_array_equal(found.dataobj, expected.dataobj)
        np.testing.assert_array_equal(found.affine, expected.affine)
        assert job in heard
        assert job in listed
    assert len(listed) == len(jobs) + 1


@pytest.mark.usefixtures("worker")
def test_networks_models_and_quotes_are_those_of_the_synchronous_client(gateway: Gateway) -> None:
    async def ask() -> None:
        async with AsyncFactoryClient(gateway.url) as client:
            await client.check()
            assert await client.ready()
            assert await client.models() == other.models()
            network = await client.unet((1, 1, 2))
            assert network.blob == other.unet((1, 1, 2)).blob
            quote = await client.quote((40, 34, 20), (0.75, 1.5, 2.0))
            assert quote.model == other.quote((40, 34, 20), (0.75, 1.5, 2.0)).model
            assert await client.deliveries() == []

    with FactoryClient(gateway.url) as other:
        asyncio.run(ask())


@pytest.mark.usefixtures("worker_present")
def test_a_job_can_be_deleted_while_it_is_followed(gateway: Gateway, tmp_path: Path) -> None:
    async def delete_followed() -> None:
        async with AsyncFactoryClient(gateway.url) as client:
            job = await client.submit(small_scan(tmp_path), SegmentationParameters(model="tiny"))
            seen = asyncio.Event()
            async with asyncio.TaskGroup() as tasks:
                waiting = tasks.create_task(refusal(client, job.id, seen))
                await seen.wait()
                await client.delete(job.id)
            assert waiting.result().status in (None, 410)  # it was seen cancelled, or is gone already

    asyncio.run(delete_followed())


@pytest.mark.usefixtures("worker_present")
def test_a_cancelled_wait_leaves_no_file_and_a_client_that_works(gateway: Gateway, tmp_path: Path) -> None:
    async def cancel() -> None:
        async with AsyncFactoryClient(gateway.url) as client:
            seen = asyncio.Event()
            scan = small_scan(tmp_path)
            waiting = asyncio.create_task(
                client.segment(scan, tmp_path / "labels.nii.gz", on_progress=lambda _: seen.set())
            )
            await seen.wait()
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert [path for path in tmp_path.iterdir() if path != scan] == []
            (job,) = [job async for job in client.jobs()]
            await client.delete(job.id)

    asyncio.run(cancel())


async def refusal(client: AsyncFactoryClient, job_id: str, seen: asyncio.Event) -> FactoryProblem:
    with pytest.raises(FactoryProblem) as refused:
        await client.wait(job_id, lambda _: seen.set())
    return refused.value


def test_an_unreachable_gateway_is_told_at_once() -> None:
    async def ask() -> None:
        async with AsyncFactoryClient("http://127.0.0.1:9") as client:
            assert not await client.ready()
            with pytest.raises(httpx.ConnectError):
                await client.check()

    asyncio.run(ask())
