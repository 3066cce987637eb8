"""``make notebooks``: runs the example notebooks and keeps what they show."""

import os
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from tests.fixtures.project import MODELS, PROJECT
from tests.system.serve_process import ServeProcess

NOTEBOOKS = sorted((PROJECT / "examples" / "notebooks").glob("*.ipynb"))
CELL_WITHIN_S = 300


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        factory = ServeProcess(Path(name), MODELS, precision="float32")
        try:
            for notebook in NOTEBOOKS:
                nbformat.write(run(notebook, factory.url, Path(name)), notebook)
        finally:
            factory.stop()


def run(notebook: Path, url: str, temporary: Path) -> nbformat.NotebookNode:
    """With what its cells show now, in its own folder, on the factory at ``url``; its files go to ``temporary``.

    Raises:
        CellExecutionError: a cell failed.
    """
    read = nbformat.read(notebook, as_version=4)
    resources = {"metadata": {"path": str(notebook.parent)}}
    environment = os.environ | {"UNET_FACTORY_URL": url, "TMPDIR": str(temporary), "OMP_NUM_THREADS": "2"}
    client = NotebookClient(read, timeout=CELL_WITHIN_S, record_timing=False, resources=resources)
    return client.execute(env=environment)


if __name__ == "__main__":
    main()
