"""A real courier in a process of its own."""

import subprocess
import sys
from pathlib import Path

from tests.fixtures.settings import FactorySettings
from tests.system.serve_process import environment


class CourierProcess:
    """``secrets`` become variables, settings ``UNET_FACTORY_*`` ones; the log goes to a file."""

    def __init__(self, settings: FactorySettings, log_file: Path, **secrets: str) -> None:
        given = {name: getattr(settings, name) for name in settings.model_fields_set}
        with log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "unet_factory_cli", "courier"],
                env=environment(**given) | secrets,
                stdout=log,
                stderr=log,
                process_group=0,
            )

    def kill(self) -> None:
        """Without a chance to clean up."""
        self._process.kill()
        self._process.wait()

    def stop(self, timeout_s: float = 20.0) -> int:
        """Told to end; the exit code."""
        self._process.terminate()
        return self._process.wait(timeout_s)
