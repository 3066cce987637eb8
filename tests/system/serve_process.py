"""``unet-factory serve`` as a real process, and what it started."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from tests.system.processes import free_port, until
from unet_factory_client import FactoryClient

STARTS_WITHIN_S = 150.0
STOPS_WITHIN_S = 15.0


class ServeProcess:
    """A factory on a free port; ``more`` are arguments, and ``settings`` become ``UNET_FACTORY_*`` variables."""

    def __init__(self, folder: Path, models_dir: Path, *more: str, **settings: object) -> None:
        self.port, self.folder = free_port(), folder
        self.url = f"http://127.0.0.1:{self.port}"
        self.data_dir, self.log_file = folder / "data", folder / "serve.log"
        arguments = ["serve", "--port", str(self.port), "--data-dir", str(self.data_dir), "--models", str(models_dir)]
        arguments += more
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "unet_factory_cli", *arguments],
                env=environment(**settings),
                stdout=log,
                stderr=log,
                process_group=0,
            )
        try:
            until(lambda: "ready: " in self.log or self.process.poll() is not None, STARTS_WITHIN_S)
        except BaseException:
            self.kill()
            raise
        assert self.process.poll() is None, self.log

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    @property
    def client(self) -> FactoryClient:
        return FactoryClient(self.url)

    def pid_of(self, *words: str) -> int:
        """The one process that ``serve`` itself started whose command line holds all ``words``."""
        found = self.pids_of(*words)
        assert len(found) == 1, (words, found, self.log)
        return found[0]

    def pids_of(self, *words: str) -> list[int]:
        """As :meth:`pid_of`, however many there are."""
        return [pid for pid in children(self.process.pid) if all(word in command_line(pid) for word in words)]

    def descendants(self) -> set[int]:
        found, fresh = set[int](), {self.process.pid}
        while fresh:
            found |= fresh
            fresh = {child for parent in fresh for child in children(parent)} - found
        return found

    def stop(self) -> int:
        """Interrupted as by Ctrl-C; the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(STOPS_WITHIN_S)

    def kill(self) -> None:
        """Without a chance to clean up."""
        with suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()


def environment(**settings: object) -> dict[str, str]:
    """Ours, with these settings of the factory and no others."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("UNET_FACTORY_")}
    return kept | {f"UNET_FACTORY_{name.upper()}": str(value) for name, value in settings.items()}


def children(parent: int) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            after_name = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(after_name[1]) == parent:
                found.append(int(folder.name))
    return found


def command_line(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    return ""
