"""The whole factory as its users run it: one command, real processes, and what happens when some of them are killed."""

import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import nibabel
import numpy as np
import pytest
import torch

from tests.fixtures.project import HIPPOCAMPUS, MODELS
from tests.system.processes import alive, until
from tests.system.serve_process import STOPS_WITHIN_S, ServeProcess, environment
from unet_factory.domain.jobs import Job, JobState
from unet_factory.model.checkpoint import load_unet
from unet_factory.model.inference import logits
from unet_factory.model.preprocessing import zscore
from unet_factory_cli.doctor.findings import Finding
from unet_factory_client import FactoryClient, FactoryProblem, Quote

log = logging.getLogger(__name__)

EXAMPLE = HIPPOCAMPUS / "images" / "hippocampus_004.nii.gz"
LONG, SHORT = 144, 16  # voxels per axis: some seconds in windows of 32, and no time at all
ASKERS = 20
RETENTION_S = 8.0  # long enough for a busy machine to see a job at work before it expires
KNOWN_WITHIN_S = 150.0  # a second or two where nothing else runs
THREADS = 1
FAST_RECOVERY = {
    "lease_s": 2,
    "maintenance_interval_s": 0.5,
    "threads": THREADS,
    "device": "cpu",
    "precision": "float32",
}

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def factory(tmp_path_factory: pytest.TempPathFactory, tiny_models: Path) -> Iterator[ServeProcess]:
    """Shared: every test leaves it ready. In the end it stops in time, in order, and with an honest exit code."""
    serve = ServeProcess(tmp_path_factory.mktemp("serve"), tiny_models, **FAST_RECOVERY)
    members = serve.descendants()
    started = time.monotonic()
    try:
        yield serve
        members |= serve.descendants()
        started = time.monotonic()
        assert serve.stop() == 0, serve.log
    finally:
        serve.kill()
    assert time.monotonic() - started < STOPS_WITHIN_S
    assert not [pid for pid in members if alive(pid)]
    assert "did not stop in time" not in serve.log


@pytest.fixture
def idle_factory(tmp_path: Path) -> Iterator[ServeProcess]:
    """With a real model: what the tiny one adds to a process's memory is lost in what that holds anyway."""
    (tmp_path / "models").mkdir()
    shutil.copy(MODELS / "hippocampus-mr.safetensors", tmp_path / "models")
    serve = ServeProcess(tmp_path, tmp_path / "models", **FAST_RECOVERY)
    yield serve
    serve.kill()


def first_quote(factory: ServeProcess) -> Quote:
    """Of a scan of ``LONG`` voxels an axis at 1 mm, once something was measured."""
    with factory.client as client:
        until(lambda: client.quote((LONG,) * 3, (1.0, 1.0, 1.0)).measurements > 0, KNOWN_WITHIN_S)
        return client.quote((LONG,) * 3, (1.0, 1.0, 1.0))


def test_a_factory_that_has_done_nothing_yet_knows_its_prices(idle_factory: ServeProcess) -> None:
    """Its worker measures itself while it is idle; a quote asks nobody and queues nothing."""
    quote = first_quote(idle_factory)
    assert (quote.queue.jobs, quote.queue.workers, quote.queue.seconds) == (0, 1, 0.0)
    assert quote.worker is not None
    assert (quote.worker.threads, quote.worker.precision) == (THREADS, "float32")
    finest, coarsest = quote.options[0], quote.options[-1]
    assert 0 < (coarsest.seconds or 0.0) < (finest.seconds or 0.0)
    assert 0 < (coarsest.peak_bytes or 0) < (finest.peak_bytes or 0)


def test_a_quote_from_the_command_line_is_for_what_the_header_says(factory: ServeProcess) -> None:
    first_quote(factory)
    shape = nibabel.Nifti1Image.from_filename(EXAMPLE).shape
    done = command(factory, "quote", str(EXAMPLE), "--json")
    assert done.returncode == 0, done.stderr
    asked = Quote.model_validate_json(done.stdout)
    assert (asked.shape, asked.spacing) == (shape, (1.0, 1.0, 1.0))
    assert asked.options[0].shape == shape
    told = command(factory, "quote", str(EXAMPLE), "--budget-seconds", "0.000001")
    assert told.returncode == 0, told.stderr
    assert "no spacing keeps this budget; the least" in told.stderr


def test_a_real_scan_through_the_command_line_comes_back_on_its_own_grid(factory: ServeProcess, tmp_path: Path) -> None:
    output = tmp_path / "labels.nii.gz"
    done = command(factory, "segment", str(EXAMPLE), "-o", str(output), "--budget-seconds", "3600")
    assert (done.returncode, done.stdout) == (0, "")
    assert "segmented at 1 x 1 x 1 mm" in done.stderr
    assert "budget of 3600 s kept: predicted" in done.stderr
    scan, labels = nibabel.Nifti1Image.from_filename(EXAMPLE), nibabel.Nifti1Image.from_filename(output)
    assert labels.shape == scan.shape
    assert labels.affine.tobytes() == scan.affine.tobytes()
    assert list(tmp_path.iterdir()) == [output]


def test_the_network_from_the_command_line_gives_the_services_own_labels(factory: ServeProcess, tmp_path: Path) -> None:
    network, labels = tmp_path / "unet.safetensors", tmp_path / "labels.nii.gz"
    assert command(factory, "unet", "--spacing", "1,1,1", "-o", str(network)).returncode == 0
    assert command(factory, "segment", str(EXAMPLE), "-o", str(labels)).returncode == 0
    unet, threads = load_unet(network), torch.get_num_threads()
    assert unet.manifest is not None
    scan = torch.from_numpy(nibabel.Nifti1Image.from_filename(EXAMPLE).get_fdata().astype(np.float32))
    torch.set_num_threads(THREADS)  # sums depend on how they are split
    with torch.inference_mode():
        here = logits(unet, zscore(scan), window=unet.manifest.window, divisors=unet.divisors).argmax(dim=0)
    torch.set_num_threads(threads)
    assert np.array_equal(here.numpy(), nibabel.Nifti1Image.from_filename(labels).get_fdata())


def test_models_and_what_is_refused_through_the_command_line(factory: ServeProcess, tmp_path: Path) -> None:
    shown = command(factory, "models")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "tiny" in shown.stdout
    refused = command(factory, "segment", __file__, "-o", str(tmp_path / "x.nii.gz"))
    assert refused.returncode == 1
    assert "not a readable volume" in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_the_doctor_finds_nothing_wrong_with_it(factory: ServeProcess) -> None:
    done = command(factory, "doctor", "--json", "--data-dir", str(factory.data_dir))
    findings = [Finding.model_validate_json(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, findings
    assert {"gateway", "workers", "job store"} <= {finding.part for finding in findings if finding.verdict == "ok"}


def test_many_askers_of_one_new_network_cost_one_generation(factory: ServeProcess) -> None:
    before = generations(factory)

    def ask(_: int) -> httpx.Response:
        return httpx.get(f"{factory.url}/unet", params={"spacing": "1.35,0.85,2.15"}, timeout=60, trust_env=False)

    with ThreadPoolExecutor(ASKERS) as pool:
        answers = list(pool.map(ask, range(ASKERS)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert len({answer.headers["ETag"] for answer in answers}) == 1
    assert generations(factory) == before + 1


def test_accepted_jobs_survive_kill_9_of_the_job_server(factory: ServeProcess, tmp_path: Path) -> None:
    with factory.client as client:
        accepted = [client.submit(noise(tmp_path, extent)).id for extent in (LONG, SHORT, SHORT, SHORT, SHORT)]
        until(lambda: client.job(accepted[0]).progress > 0)
        os.kill(factory.pid_of("valkey-server", "/jobs/socket"), signal.SIGKILL)
        killed = time.monotonic()
        assert [client.wait(job_id).state for job_id in accepted] == [JobState.SUCCEEDED] * len(accepted)
        log.info("%d jobs ended %.1f s after kill -9 of the job server", len(accepted), time.monotonic() - killed)
    assert "the job server was killed by SIGKILL" in factory.log


def test_who_waits_outlives_a_restart_of_the_gateway(factory: ServeProcess, tmp_path: Path) -> None:
    with factory.client as client, ThreadPoolExecutor(1) as pool:
        job = client.submit(noise(tmp_path, LONG))
        seen: list[Job] = []
        waiting = pool.submit(client.wait, job.id, seen.append)
        until(lambda: seen and seen[-1].progress > 0)
        os.kill(factory.pid_of(" gateway "), signal.SIGKILL)
        assert waiting.result(150).state is JobState.SUCCEEDED
        labels = nibabel.Nifti1Image.from_filename(client.labelmap(job.id, tmp_path / "labels.nii.gz"))
        until(client.ready)
    assert labels.shape == (LONG,) * 3
    assert "the gateway was killed by SIGKILL" in factory.log


def test_a_killed_worker_is_replaced_and_its_job_ends(factory: ServeProcess, tmp_path: Path) -> None:
    with factory.client as client:
        job = client.submit(noise(tmp_path, LONG))
        until(lambda: client.job(job.id).progress > 0)
        worker = factory.pid_of(" worker ")
        os.kill(worker, signal.SIGKILL)
        ended = client.wait(job.id)
        assert (ended.state, ended.attempts) == (JobState.SUCCEEDED, 2)
    assert factory.pid_of(" worker ") != worker


def test_delete_cancels_and_purges_a_running_job(factory: ServeProcess, tmp_path: Path) -> None:
    with factory.client as client:
        running, following = client.submit(noise(tmp_path, LONG)), client.submit(noise(tmp_path, SHORT))
        until(lambda: client.job(running.id).progress > 0)
        client.delete(running.id)
        with pytest.raises(FactoryProblem) as gone:
            client.job(running.id)
        assert gone.value.status == 410
        assert client.wait(following.id).state is JobState.SUCCEEDED
    until(lambda: not (factory.data_dir / "blobs/jobs" / running.id).exists())


def test_an_interrupted_command_takes_its_job_back(factory: ServeProcess, tmp_path: Path) -> None:
    jobs = factory.data_dir / "blobs/jobs"
    before = set(jobs.iterdir())
    arguments = ["segment", str(noise(tmp_path, LONG)), "-o", str(tmp_path / "labels.nii.gz")]
    interrupted = subprocess.Popen(
        [sys.executable, "-m", "unet_factory_cli", *arguments],
        env=environment(url=factory.url),
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_heed_interrupts,
    )
    (folder,) = until(lambda: set(jobs.iterdir()) - before)
    with factory.client as client:
        until(lambda: client.job(folder.name).progress > 0)
        interrupted.send_signal(signal.SIGINT)
        _, said = interrupted.communicate(timeout=30)
        assert interrupted.returncode == 1
        assert "the job was cancelled" in said
        with pytest.raises(FactoryProblem, match="expired"):
            client.job(folder.name)


def _heed_interrupts() -> None:
    """As at a terminal; a test run in the background has its children ignore them."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_a_second_serve_on_the_same_data_or_port_is_refused(factory: ServeProcess, tiny_models: Path) -> None:
    common = ["serve", "--models", str(tiny_models), "--data-dir"]
    same_data = command(factory, *common, str(factory.data_dir))
    assert same_data.returncode == 1
    assert f"in use by another `unet-factory serve` (process {factory.process.pid})" in same_data.stderr
    same_port = command(factory, *common, str(factory.folder / "other"), "--port", str(factory.port))
    assert same_port.returncode == 1
    assert "address already in use; choose another --port" in same_port.stderr
    with factory.client as client:
        assert client.ready()


def test_jobs_expire_and_kill_9_of_serve_leaves_no_process_behind(tmp_path: Path, tiny_models: Path) -> None:
    serve = ServeProcess(tmp_path, tiny_models, retention_s=RETENTION_S, **FAST_RECOVERY)
    try:
        with serve.client as client:
            short = client.wait(client.submit(noise(tmp_path, SHORT)).id)
            until(lambda: status_of(client, short.id) == 410)
            assert time.time() >= short.expires
            assert not (serve.data_dir / "blobs/jobs" / short.id).exists()
            running = client.submit(noise(tmp_path, LONG))
            until(lambda: client.job(running.id).progress > 0)
            members = serve.descendants()
            assert len(members) >= 6  # serve, watchdog, two servers, worker with its child, gateway
            serve.kill()
            killed = time.monotonic()
            until(lambda: not any(alive(pid) for pid in members), 10)
            log.info("%d processes gone %.2f s after kill -9 of serve", len(members), time.monotonic() - killed)
    finally:
        serve.kill()


def command(factory: ServeProcess, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "unet_factory_cli", *arguments],
        env=environment(url=factory.url),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def noise(folder: Path, extent: int) -> Path:
    """A scan of ``extent`` voxels per axis."""
    path = folder / f"noise-{extent}.nii"
    voxels = np.random.default_rng(0).normal(size=(extent,) * 3).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), path)
    return path


def generations(factory: ServeProcess) -> float:
    text = httpx.get(f"{factory.url}/metrics", trust_env=False).text
    found = re.search(r"^unet_factory_weight_generation_seconds_count (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def status_of(client: FactoryClient, job_id: str) -> int | None:
    try:
        client.job(job_id)
    except FactoryProblem as problem:
        return problem.status
    return 200
