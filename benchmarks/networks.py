"""``GET /unet`` from the cache: whole under load from ``wrk``, against nginx with the same bytes; without content one
after the other on an open connection, against ``GET /models``.
"""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path

import httpx

from benchmarks.models import HIPPOCAMPUS, SHIPPED, paper_size
from benchmarks.rows import Bound, Row, area, at_least, at_most
from benchmarks.timing import Sample, interleaved, rates_row, timed_row
from tests.fixtures.settings import FactorySettings
from tests.system.gateway_process import gateway_process
from tests.system.processes import free_port, until
from unet_factory.domain.jobs import GenerationRequest
from unet_factory.model.checkpoint import load_checkpoint, standalone_bytes
from unet_factory.platform.manifest_file import read_manifest
from unet_factory.platform.weight_cache import WeightCache, connect_cache
from unet_factory_cli.embedded import JOBS_OPTIONS, EmbeddedServer

_ROUNDS, _SECONDS, _CONNECTIONS = 5, 2, 8
_ANSWERS = 10
_MM = (1.0, 1.5, 2.0)

_MODELS, _NGINX = "GET /models", "nginx"
_NGINX_CONF = """
daemon off; worker_processes 1; error_log stderr crit; pid {folder}/nginx.pid;
events {{}}
http {{
    access_log off; sendfile on;
    client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
    uwsgi_temp_path {folder}; scgi_temp_path {folder};
    server {{ listen 127.0.0.1:{port}; root {folder}/files; }}
}}
"""


@area("unet", "Fetching a network that was made before")
def unet() -> Iterator[Row]:
    if shutil.which("wrk") is None or shutil.which("nginx") is None:
        yield Row(name="everything", value=None, unit="", note="needs wrk and nginx (apt-get install wrk nginx-light)")
        return
    yield from _rows(HIPPOCAMPUS, "55", "48", at_most(150))
    yield from _rows(paper_size(), "20", "24", at_most(300))


def _rows(checkpoint: Path, get_before: str, known_before: str, memory: Bound) -> Iterator[Row]:
    with _Serving(checkpoint) as serving:
        rates = serving.rates()
        size = f"{serving.size / 1e6:.1f} MB"
        yield rates_row(f"GET, {size}", rates, "GET", _NGINX, "/s", aim=at_least(0.8), before=f"{get_before} /s")
        answers = serving.answers()
        for name in ("304", "HEAD"):
            yield timed_row(f"{name}, {size}", answers, name, _MODELS, aim=at_most(1.11), before=f"{known_before} /s")
        peak = serving.peak_bytes()
        yield Row(name=f"memory of the gateway, {size}", value=peak / 1e6, unit="MB", aim=memory)


class _Serving:
    """A gateway with one network in its cache, and nginx with the same bytes as a file."""

    def __init__(self, checkpoint: Path) -> None:
        self._checkpoint, self._stack = checkpoint, ExitStack()

    def __enter__(self) -> "_Serving":
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        models = folder / "models"
        models.mkdir()
        for path in {*SHIPPED.glob("*.safetensors"), self._checkpoint}:
            (models / path.name).symlink_to(path.resolve())
        redis = EmbeddedServer.start(folder / "redis", JOBS_OPTIONS | {"appendonly": "no"})
        self._stack.callback(redis.stop)
        settings = FactorySettings(redis_url=redis.redis_url, blob_url=(folder / "blobs").as_uri(), models_dir=models)
        blob = self._fill(settings)
        self._path = f"/unet?model={read_manifest(self._checkpoint).name}&spacing={','.join(map(str, _MM))}"
        self.size = len(blob)
        host, port = self._stack.enter_context(gateway_process(settings, folder / "gateway.log"))
        self._host, self._port, self._gateway = host, port, f"http://{host}:{port}"
        self._nginx = self._stack.enter_context(_nginx(folder, blob))
        self._pid = _listener(port)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def rates(self) -> dict[str, tuple[float, ...]]:
        """Requests a second by contestant, in turns."""
        contestants = {"GET": self._gateway + self._path, _NGINX: f"{self._nginx}/network"}
        found: dict[str, list[float]] = {name: [] for name in contestants}
        for _ in range(_ROUNDS):
            for name, url in contestants.items():
                found[name].append(_wrk(url))
        return {name: tuple(rates) for name, rates in found.items()}

    def answers(self) -> dict[str, Sample]:
        """Seconds of a few answers without content, and of the list of models."""
        connection = HTTPConnection(self._host, self._port)

        def ask(method: str, path: str, **headers: str) -> HTTPResponse:
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            answer.read()
            return answer

        etag = ask("HEAD", self._path).headers["ETag"]
        contestants: dict[str, Callable[[], object]] = {
            "304": lambda: [ask("GET", self._path, **{"If-None-Match": etag}) for _ in range(_ANSWERS)],
            "HEAD": lambda: [ask("HEAD", self._path) for _ in range(_ANSWERS)],
            _MODELS: lambda: [ask("GET", "/models") for _ in range(_ANSWERS)],
        }
        return interleaved(contestants, rounds=31)

    def peak_bytes(self) -> int:
        status = Path(f"/proc/{self._pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) * 1024

    def _fill(self, settings: FactorySettings) -> bytes:
        checkpoint = load_checkpoint(self._checkpoint)
        snapped = checkpoint.manifest.grid.snap(_MM)
        blob = standalone_bytes(checkpoint, snapped)
        request = GenerationRequest(
            model=checkpoint.manifest.name, checkpoint_digest=checkpoint.digest, snapped_um=tuple(snapped)
        )
        WeightCache(connect_cache(settings.weights_url)).put(request, blob)
        return blob


@contextmanager
def _nginx(folder: Path, blob: bytes) -> Iterator[str]:
    (folder / "files").mkdir()
    (folder / "files/network").write_bytes(blob)
    folder.chmod(0o755)  # for a server that may run as another user
    port = free_port()
    (folder / "nginx.conf").write_text(_NGINX_CONF.format(folder=folder, port=port))
    process = subprocess.Popen(["nginx", "-c", str(folder / "nginx.conf")])  # noqa: S607
    url = f"http://127.0.0.1:{port}"
    try:
        until(lambda: _answers(url), 10)
        yield url
    finally:
        process.terminate()
        process.wait()


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/network").status_code == 200
    except httpx.TransportError:
        return False


def _listener(port: int) -> int:
    """The process that listens on a port of this machine."""
    found = subprocess.run(["ss", "-ltnpH", f"sport = :{port}"], capture_output=True, text=True, check=True)  # noqa: S607
    pid = re.search(r"pid=(\d+)", found.stdout)
    assert pid is not None
    return int(pid[1])


def _wrk(url: str) -> float:
    command = ["wrk", "-t1", f"-c{_CONNECTIONS}", f"-d{_SECONDS}s", url]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    failures = re.search(r"Non-2xx or 3xx responses: (\d+)", output)
    found = re.search(r"Requests/sec:\s+([\d.]+)", output)
    assert failures is None, output
    assert found is not None, output
    return float(found[1])
