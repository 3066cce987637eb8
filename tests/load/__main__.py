"""``make load``: serve a small model, let locust's clients work, watch the processes, print or publish the figures."""

import csv
import os
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import nibabel
import numpy as np
import typer

from tests.fixtures.dicom_files import mr_series, saved
from tests.fixtures.tiny_model import save_tiny_model
from tests.system.serve_process import ServeProcess, children

PAGE = Path("docs/results/load.md")
OUTPUT = Path("build/load")
LOCUST = Path("build/locust/bin/locust")
PLACEHOLDER = "1.2.826.0.1.3680043.8.498." + "9" * 20

_SAMPLED_EVERY_S = 5.0
_WARM_UP = 0.25  # of the time, in which caches fill
_FLAT = 1.10
_JUDGED_FROM_MINUTES = 5  # before that everything still warms up
_ROLES = ("gateway", "worker")


@dataclass
class Watched:
    """Samples of one role with its children: (resident MiB, open files), in the order of time."""

    samples: list[tuple[float, int]] = field(default_factory=list)

    def rows(self) -> tuple[tuple[float, int], tuple[float, int]]:
        """Medians after the warm-up: of the first and of the last quarter of what follows."""
        kept = self.samples[int(len(self.samples) * _WARM_UP) :]
        quarter = max(1, len(kept) // 4)
        return _median(kept[:quarter]), _median(kept[-quarter:])

    @property
    def flat(self) -> bool:
        (memory, files), (memory_after, files_after) = self.rows()
        return memory_after <= memory * _FLAT and files_after <= files * _FLAT + 5


def main(
    minutes: Annotated[float, typer.Option(help="How long the clients work.")] = 1.0,
    clients: Annotated[int, typer.Option(help="How many there are.")] = 50,
    locust: Annotated[Path, typer.Option(help="The command, in an environment of its own.")] = Path(
        "build/locust/bin/locust"
    ),
    publish: Annotated[bool, typer.Option("--publish", help=f"Write {PAGE}.")] = False,
) -> None:
    """Exit status 1 if an answer was neither right nor an honest refusal, or if a process grew."""
    OUTPUT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_tiny_model(folder / "models")
        inputs = _inputs(folder / "inputs")
        factory = ServeProcess(folder, folder / "models", device="cpu", threads=1, series_quiet_s=1, retention_s=120)
        try:
            watched = _drive(factory, locust, minutes, clients, inputs)
            assert factory.stop() == 0, factory.log
        finally:
            factory.kill()
    rows = list(csv.DictReader((OUTPUT / "run_stats.csv").open()))
    text = page(rows, watched, minutes, clients)
    if publish:
        PAGE.write_text(text)
    typer.echo(text)
    grew = minutes >= _JUDGED_FROM_MINUTES and not all(role.flat for role in watched.values())
    if grew or any(int(row["Failure Count"]) for row in rows):
        raise typer.Exit(1)


def _inputs(folder: Path) -> dict[str, str]:
    """Variables that name a scan and a series, whose UIDs each client replaces."""
    folder.mkdir()
    scan = folder / "scan.nii.gz"
    nibabel.save(
        nibabel.Nifti1Image(np.random.default_rng(0).normal(size=(32,) * 3).astype(np.float32), np.eye(4)), scan
    )
    series = mr_series(4, 24, StudyInstanceUID=PLACEHOLDER, SeriesInstanceUID=PLACEHOLDER)
    saved(series, folder / "series")
    return {"LOAD_SCAN": str(scan), "LOAD_SERIES": str(folder / "series")}


def _drive(
    factory: ServeProcess, locust: Path, minutes: float, clients: int, inputs: dict[str, str]
) -> dict[str, Watched]:
    command = [
        str(locust.absolute()),
        *("-f", str(Path(__file__).with_name("locustfile.py")), "--headless", "--only-summary"),
        *("-u", str(clients), "-r", "10", "-t", f"{round(minutes * 60)}s", "--host", factory.url),
        *("--csv", str((OUTPUT / "run").absolute()), "--exit-code-on-error", "0"),
    ]
    watched = {role: Watched() for role in _ROLES}
    with (OUTPUT / "locust.log").open("wb") as log:
        process = subprocess.Popen(command, env=os.environ | inputs, stdout=log, stderr=log)
        try:
            while process.poll() is None:
                for role in _ROLES:
                    watched[role].samples.append(_sample(factory.pid_of("unet_factory_cli", f" {role} ")))
                time.sleep(_SAMPLED_EVERY_S)
        finally:
            process.kill()
            process.wait()
    if process.returncode:
        raise RuntimeError(f"locust ended with {process.returncode}; see {OUTPUT / 'locust.log'}")
    return watched


def _sample(pid: int) -> tuple[float, int]:
    pids = [pid, *children(pid)]
    resident = sum(_resident_mib(each) for each in pids)
    return resident, sum(len(list(Path(f"/proc/{each}/fd").iterdir())) for each in pids)


def _resident_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _median(samples: list[tuple[float, int]]) -> tuple[float, int]:
    memory, files = zip(*samples, strict=True)
    return float(np.median(memory)), int(np.median(files))


def page(rows: list[dict[str, str]], watched: dict[str, Watched], minutes: float, clients: int) -> str:
    """The whole page, in Markdown; ``rows`` are locust's."""
    *routes, total = rows
    head = _HEAD.format(
        minutes=minutes,
        clients=clients,
        machine=f"{os.cpu_count()} cores (load {os.getloadavg()[2]:.0f})",
        requests=total["Request Count"],
        rate=float(total["Requests/s"]),
        wrong=total["Failure Count"],
    )
    lines = [*head.splitlines(), "| request | times | p50 | p99 | wrong |", "|---|---|---|---|---|"]
    for row in routes:
        counts = row["Request Count"], _seconds(row["50%"]), _seconds(row["99%"]), row["Failure Count"]
        lines.append(f"| `{row['Name']}` | {' | '.join(counts)} |")
    lines += [
        *_MEMORY.format(growth=_FLAT - 1, minutes=_JUDGED_FROM_MINUTES).splitlines(),
        "| role | MiB, early | MiB, late | files, early | files, late | flat |",
        "|---|---|---|---|---|---|",
    ]
    for role, seen in watched.items():
        (memory, files), (memory_after, files_after) = seen.rows()
        flat = "too short" if minutes < _JUDGED_FROM_MINUTES else "yes" if seen.flat else "**no**"
        lines.append(f"| {role} | {memory:.0f} | {memory_after:.0f} | {files} | {files_after} | {flat} |")
    return "\n".join([*lines, ""])


def _seconds(milliseconds: str) -> str:
    return f"{float(milliseconds) / 1000:.3g} s"


_HEAD = """\
# Load: many clients at once

`make load ARGS='--minutes {minutes:g} --clients {clients}'`, on {machine}.

{clients} clients of [locust](https://locust.io), each with a pause of 0.5 to 2 s between two things it does: submit a
scan, follow it, fetch and delete it; send a series by STOW-RS; fetch networks; list, search, ask for quotes, readiness
and metrics. One `unet-factory serve` with one worker of one thread and a small model, on the same cores as the clients.

{requests} requests, {rate:.1f} a second; **{wrong} wrong answers** (a 5xx but 503 and 507, a 503 or 429 without
`Retry-After`, or another 4xx). Refusals have rows of their own, with their status.

"""
_MEMORY = """
Memory (resident, of the role and its children) and open files: medians over a quarter of the time, the first after a
warm-up and the last. Flat is at most {growth:.0%} more, judged in runs of {minutes} minutes or more.

"""

if __name__ == "__main__":
    typer.run(main)
