"""A real Prometheus scrapes a real gateway and a real worker: every panel and every rule shows data."""

import itertools
import json
import math
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import IO, Any

import httpx
import nibabel
import numpy as np
import pytest
import yaml

from tests.fixtures.project import DEPLOY, PROJECT
from tests.fixtures.webhook_receiver import Receiver, receiving
from tests.system.processes import free_port, until
from unet_factory_cli.embedded import JOBS_OPTIONS, EmbeddedServer

GPU_METRICS = (
    *("unet_factory_gpu_memory_used_bytes", "unet_factory_gpu_memory_capacity_bytes"),
    *("unet_factory_gpu_memory_peak_bytes", "unet_factory_gpu_utilisation_ratio"),
)
DEADLINE_S = 60.0

pytestmark = [
    pytest.mark.system,
    pytest.mark.slow,
    pytest.mark.skipif(
        not all(map(shutil.which, ("prometheus", "promtool", "prometheus-alertmanager"))),
        reason="needs the Debian packages prometheus and prometheus-alertmanager",
    ),
]


def test_every_panel_and_rule_shows_data(factory: "Factory", prometheus: "Prometheus") -> None:
    waiting = {text for text in expressions() if not any(metric in text for metric in GPU_METRICS)}
    assert len(waiting) > 20
    deadline = time.monotonic() + DEADLINE_S
    while waiting and time.monotonic() < deadline:
        factory.busy_round()
        waiting = {text for text in waiting if not any(map(math.isfinite, prometheus.values(text)))}
    assert not waiting
    assert [(rule["name"], rule["lastError"]) for rule in prometheus.rules() if rule["health"] != "ok"] == []


def test_gpu_panels_are_valid_and_show_data_where_there_is_a_gpu(factory: "Factory", prometheus: "Prometheus") -> None:
    import torch

    factory.busy_round()
    for metric in GPU_METRICS:
        panels = [text for text in expressions() if metric in text]
        assert panels
        for text in panels:
            prometheus.values(text)  # raises unless it is understood
            if torch.cuda.is_available():
                until(lambda text=text: bool(prometheus.values(text)))  # type: ignore[misc]


def test_counts_are_right_over_all_processes(factory: "Factory", prometheus: "Prometheus") -> None:
    factory.busy_round()
    for outcome, count in factory.outcomes.items():
        query = f'sum(unet_factory_jobs_total{{model="tiny",outcome="{outcome}"}})'
        until(lambda query=query, count=count: prometheus.values(query) == [count])  # type: ignore[misc]
    until(lambda: prometheus.values("sum(unet_factory_spacing_out_of_range_total)") == [factory.out_of_range])
    generated = "sum(unet_factory_weight_generation_seconds_count)"
    until(lambda: prometheus.values(generated) == [len(factory.networks)])


def test_metrics_rules_and_configuration_are_clean(factory: "Factory") -> None:
    factory.busy_round()
    for url in (f"{factory.gateway_url}/metrics", f"{factory.worker_url}/metrics", f"{factory.courier_url}/metrics"):
        promtool("check", "metrics", stdin=httpx.get(url).raise_for_status().text)
    promtool("check", "config", str(DEPLOY / "prometheus/prometheus.yml"))
    promtool("check", "rules", *map(str, (DEPLOY / "prometheus/rules").glob("*.yml")))


def test_every_alert_fires_when_it_must_and_only_then() -> None:
    promtool("test", "rules", str(PROJECT / "tests/deploy/alerts.yml"))


def test_no_worker_raises_its_alert_and_the_receiver_is_told(
    factory: "Factory", prometheus: "Prometheus", receiver: Receiver
) -> None:
    """Last: it ends the worker."""
    alert = 'ALERTS{alertname="UnetFactoryNoWorker",alertstate="firing"}'
    assert prometheus.values(alert) == []
    factory.stop_worker()
    until(lambda: prometheus.values(alert) == [1.0])
    until(lambda: any(b"UnetFactoryNoWorker" in body for _, _, body in receiver.requests))


@dataclass
class Factory:
    """A running gateway and worker, and what was asked of them."""

    gateway_url: str
    worker_url: str
    courier_url: str
    stop_worker: Callable[[], None]
    folder: Path
    outcomes: Counter[str] = field(default_factory=Counter)
    networks: set[str] = field(default_factory=set)
    out_of_range: int = 0
    _rounds: Iterator[int] = field(default_factory=itertools.count)

    def busy_round(self) -> None:
        """Two jobs that succeed (one out of range), one that fails, networks made and found, mistakes of the asker."""
        spacing_mm = 0.6 + 0.05 * next(self._rounds)
        self._segment(self._scan(spacing_mm), "succeeded", network=f"{spacing_mm:.2f}")
        self._segment(self._scan(5.0), "succeeded", network="clamped")
        self._segment(self._scan(1.0, flaw=np.nan), "failed")
        for _ in range(2):
            self._unet(f"{spacing_mm:.2f},1.05,1.1", 200)
        self.networks.add(f"{spacing_mm:.2f},1.05,1.1")
        self._unet("9,9,9", 422)
        self.out_of_range += 2  # the second scan and the last network
        assert httpx.get(f"{self.gateway_url}/segmentations/{'0' * 32}").status_code == 404

    def _segment(self, scan: Path, outcome: str, network: str | None = None) -> None:
        with scan.open("rb") as upload:
            answer = self._post("/segmentations", upload)
        assert answer.json().get("state") == outcome, answer.text
        self.outcomes[outcome] += 1
        self.networks |= {network} if network else set()

    def _post(self, path: str, upload: IO[bytes]) -> httpx.Response:
        url, wait = f"{self.gateway_url}{path}", {"Prefer": "wait=30"}
        return httpx.post(url, files={"file": upload}, headers=wait, timeout=60)

    def _unet(self, spacing: str, status: int) -> None:
        url, wait = f"{self.gateway_url}/unet", {"Prefer": "wait=30"}
        assert httpx.get(url, params={"spacing": spacing}, headers=wait, timeout=60).status_code == status

    def _scan(self, spacing_mm: float, flaw: float = 0.0) -> Path:
        """Noise. ``flaw`` is the value of one voxel, which only who reads the voxels can see."""
        voxels = np.random.default_rng(0).normal(size=(24, 20, 16)).astype(np.float32)
        voxels[3, 4, 5] = flaw
        path = self.folder / "scan.nii.gz"
        nibabel.save(nibabel.Nifti1Image(voxels, np.diag([spacing_mm] * 3 + [1.0])), path)
        return path


@dataclass
class Prometheus:
    url: str

    def values(self, expression: str) -> list[float]:
        """Of every series that the expression yields now; raises when it is not understood."""
        answer = httpx.get(f"{self.url}/api/v1/query", params={"query": expression})
        assert answer.status_code == 200, f"{expression}: {answer.text}"
        return [float(series["value"][1]) for series in answer.json()["data"]["result"]]

    def rules(self) -> list[dict[str, Any]]:
        groups = httpx.get(f"{self.url}/api/v1/rules").raise_for_status().json()["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]


@pytest.fixture(scope="module")
def factory(tmp_path_factory: pytest.TempPathFactory, tiny_models: Path) -> Iterator[Factory]:
    folder = tmp_path_factory.mktemp("factory")
    server = EmbeddedServer.start(folder / "redis", JOBS_OPTIONS)
    gateway_port, worker_port, courier_port = free_port(), free_port(), free_port()
    environment = outside_environment() | {
        "UNET_FACTORY_REDIS_URL": server.redis_url,
        "UNET_FACTORY_BLOB_URL": (folder / "blobs").as_uri(),
        "UNET_FACTORY_MODELS_DIR": str(tiny_models),
        "UNET_FACTORY_CALIBRATE": "false",  # its networks would count
    }
    command = [sys.executable, "-m", "unet_factory_cli"]
    gateway = subprocess.Popen([*command, "gateway", "--port", str(gateway_port)], env=environment)
    exporter = {"UNET_FACTORY_METRICS_PORT": str(worker_port)}
    courier_exporter = {"UNET_FACTORY_METRICS_PORT": str(courier_port)}
    processes = [gateway, subprocess.Popen([*command, "courier"], env=environment | courier_exporter)]
    try:
        gateway_url = f"http://127.0.0.1:{gateway_port}"
        until(lambda: answers(f"{gateway_url}/livez"))
        assert httpx.get(f"{gateway_url}/unet?spacing=1,1,1").status_code == 503  # a server error to show
        worker = subprocess.Popen([*command, "worker"], env=environment | exporter)
        processes.append(worker)
        until(lambda: answers(f"{gateway_url}/readyz"))
        worker_url, courier_url = f"http://127.0.0.1:{worker_port}", f"http://127.0.0.1:{courier_port}"
        yield Factory(gateway_url, worker_url, courier_url, lambda: stop(worker), folder)
    finally:
        for process in processes:
            stop(process)
        server.stop()


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with receiving(200) as receiver:
        yield receiver


@pytest.fixture(scope="module")
def alertmanager(tmp_path_factory: pytest.TempPathFactory, receiver: Receiver) -> Iterator[str]:
    """Its address; the deployed configuration, with a receiver and without pauses."""
    folder, address = tmp_path_factory.mktemp("alertmanager"), f"127.0.0.1:{free_port()}"
    config = yaml.safe_load((DEPLOY / "alertmanager/alertmanager.yml").read_text())
    config["route"] |= {"group_wait": "0s", "group_interval": "1s"}
    config["receivers"][0]["webhook_configs"] = [{"url": receiver.url}]
    (folder / "alertmanager.yml").write_text(yaml.safe_dump(config))
    options = [f"--config.file={folder}/alertmanager.yml", f"--storage.path={folder}/data", "--log.level=error"]
    addresses = [f"--web.listen-address={address}", "--cluster.listen-address="]
    server = subprocess.Popen(["prometheus-alertmanager", *options, *addresses])
    try:
        until(lambda: answers(f"http://{address}/-/ready"))
        yield address
    finally:
        stop(server)


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory, factory: Factory, alertmanager: str) -> Iterator[Prometheus]:
    """The deployed configuration, but for where and how often it scrapes, and that alerts fire at once."""
    folder, port = tmp_path_factory.mktemp("prometheus"), free_port()
    config = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(folder / pattern) for pattern in config["rule_files"]]
    config["alerting"] = {"alertmanagers": [{"static_configs": [{"targets": [alertmanager]}]}]}
    (folder / "rules").mkdir()
    for file in (DEPLOY / "prometheus/rules").glob("*.yml"):
        (folder / "rules" / file.name).write_text(re.sub(r"^ +for: .*\n", "", file.read_text(), flags=re.MULTILINE))
    urls = {
        "unet-factory-gateway": factory.gateway_url,
        "unet-factory-worker": factory.worker_url,
        "unet-factory-courier": factory.courier_url,
    }
    for job in config["scrape_configs"]:
        del job["dns_sd_configs"]
        job["static_configs"] = [{"targets": [urls[job["job_name"]].removeprefix("http://")]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    command = ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    server = subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"])
    try:
        until(lambda: answers(f"http://127.0.0.1:{port}/-/ready"))
        yield Prometheus(f"http://127.0.0.1:{port}")
    finally:
        stop(server)


def expressions() -> set[str]:
    """Of every panel and every recording rule, and the left side of every alert's comparison.

    Less ``or vector(0)``, which would hide that a selector finds nothing.
    """
    dashboards = [json.loads(file.read_text()) for file in (DEPLOY / "grafana/dashboards").glob("*.json")]
    panels = [panel for dashboard in dashboards for panel in dashboard["panels"]]
    found = {target["expr"] for panel in panels for target in panel.get("targets", [])}
    for file in (DEPLOY / "prometheus/rules").glob("*.yml"):
        for rule in (rule for group in yaml.safe_load(file.read_text())["groups"] for rule in group["rules"]):
            found.add(rule["expr"] if "record" in rule else left_side(rule["expr"]))
    chosen = {"$__rate_interval": "30s", "$model": ".*", " or vector(0)": ""}
    return {reduce(lambda text, name: text.replace(name, chosen[name]), chosen, text) for text in found}


def left_side(comparison: str) -> str:
    left, operator, right = comparison.rsplit(maxsplit=2)
    assert operator in ("<", ">", "==")
    float(right)
    return left


def promtool(*arguments: str, stdin: str = "") -> None:
    result = subprocess.run(["promtool", *arguments], input=stdin, capture_output=True, text=True, timeout=30)
    assert result.returncode == 0, result.stdout + result.stderr


def outside_environment() -> dict[str, str]:
    """Ours, without what would set up the roles."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("UNET_FACTORY_", "PROMETHEUS_"))}


def answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.TransportError:
        return False


def stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
