"""What a worker's memory is with few and with many models, all of which are ready for every spacing at all times."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from redis import Redis

from benchmarks.models import SHIPPED
from benchmarks.rows import Row, area, at_most
from benchmarks.start import store
from tests.system.processes import until
from tests.system.worker_process import WorkerProcess
from unet_factory.jobs.presence import WorkerPresence, present
from unet_factory.model.checkpoint import replace_manifest
from unet_factory.platform.manifest_file import read_manifest

_CHECKPOINT = SHIPPED / "heart-mr.safetensors"
_MANY = 10
_MIB = 2**20


@area("models", "A worker with many models")
def many_models() -> Iterator[Row]:
    one = _resident_mib(1)
    many = _resident_mib(_MANY)
    size_mib = _CHECKPOINT.stat().st_size / _MIB
    yield Row(name="resident memory with one model", value=one, unit="MiB")
    yield Row(
        name=f"resident memory for each further model of {size_mib:.1f} MiB",
        value=(many - one) / (_MANY - 1),
        unit="MiB",
        aim=at_most(1.2 * size_mib),
        note=f"{many:.0f} MiB with {_MANY}",
    )


def _resident_mib(models: int) -> float:
    """Of the process that computes, once all models are ready; they are one checkpoint under several names."""
    manifest = read_manifest(_CHECKPOINT)
    with tempfile.TemporaryDirectory() as name, store() as settings, Redis.from_url(settings.redis_url) as redis:
        for index in range(models):
            named = manifest.model_copy(update={"name": f"heart-{index}"})
            replace_manifest(_CHECKPOINT, named, Path(name) / f"{index}.safetensors")
        own = {"models_dir": Path(name), "calibrate": False, "threads": 1, "precision": "float32"}
        worker = WorkerProcess(settings.model_copy(update=own))

        def up() -> list[WorkerPresence]:
            return [one for one in present(redis) if len(one.models) >= models]

        try:
            (presence,) = until(up)
            status = Path(f"/proc/{presence.pid}/status").read_text()
        finally:
            worker.kill_group()
    (resident_kib,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(resident_kib) / 1024
