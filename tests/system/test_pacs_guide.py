"""The commands of the guide's PACS quick start, run word by word, with only ports and folders of this machine's."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from pydicom import dcmread

from tests.system.orthanc import PLUGINS, Orthanc, needs_orthanc
from tests.system.processes import free_port, until
from tests.system.serve_process import environment

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "guide" / "pacs.md"
SERIES = ROOT / "examples" / "dicom" / "PGBM-002_HippoCrop"
PATIENCE_S = 240.0
GUIDE_PORTS = ("8000", "8042", "4242")

needs_plugin = pytest.mark.skipif(
    shutil.which("storescu") is None or not (PLUGINS / "libOrthancPython.so").exists(),
    reason="needs the Debian packages dcmtk and orthanc-python",
)
pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(400), needs_orthanc, needs_plugin]


def test_the_quick_start_without_docker_works_as_written(tmp_path: Path) -> None:
    ports = {port: str(free_port()) for port in GUIDE_PORTS}
    folder = checkout(tmp_path / "checkout", ports)
    (commands,) = re.findall(r"^```sh\n(export UNET_FACTORY_AUTHENTICATION.*?)^```", GUIDE.read_text(), re.M | re.S)
    with (tmp_path / "log").open("wb") as log:
        script = subprocess.Popen(
            ["bash", "-ec", f"{with_ports(commands, ports)}\nwait"],
            cwd=folder, env=shell_environment(folder, ports), stdout=log, stderr=log, process_group=0,
        )  # fmt: skip
    try:
        study = dcmread(next(SERIES.glob("*.dcm"))).StudyInstanceUID
        archive = Orthanc(folder, int(ports["8042"]), int(ports["4242"]))
        until(lambda: answers(archive, study) or script.poll() is not None, PATIENCE_S)
        assert answers(archive, study), (tmp_path / "log").read_text()
    finally:
        os.killpg(script.pid, signal.SIGTERM)
        script.wait()


def answers(archive: Orthanc, study: str) -> bool:
    try:
        return archive.modalities(study) == ["MR", "SEG", "SR"]
    except httpx.HTTPError:
        return False


def checkout(folder: Path, ports: dict[str, str]) -> Path:
    """What the commands use of the project, with other ports."""
    folder.mkdir()
    for name in ("examples", "models"):
        (folder / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "deploy", folder / "deploy")
    configuration = folder / "deploy" / "orthanc" / "orthanc.json"
    shipped = with_ports(configuration.read_text(), ports)
    configuration.write_text(
        shipped.replace('"RemoteAccessAllowed"', f'"HttpPort": {ports["8042"]}, "RemoteAccessAllowed"')
    )
    local = folder / "deploy" / "orthanc" / "destinations-local.yml"
    local.write_text(with_ports(local.read_text(), ports))
    return folder


def with_ports(text: str, ports: dict[str, str]) -> str:
    return re.sub(rf"\b({'|'.join(GUIDE_PORTS)})\b", lambda found: ports[found[0]], text)


def shell_environment(folder: Path, ports: dict[str, str]) -> dict[str, str]:
    """``unet-factory`` is ours, keeps its data in ``folder`` and listens on its port, which is what defaults say."""
    (folder / "bin").mkdir()
    program = folder / "bin" / "unet-factory"
    options = f'--data-dir "{folder}/data"'
    program.write_text(
        f'#!/bin/sh\ncase $1 in serve) set -- "$@" --port {ports["8000"]} --models models;; esac\n'
        f'exec "{sys.executable}" -m unet_factory_cli "$@" {options}\n'
    )
    program.chmod(0o755)
    given = environment(device="cpu", threads=1)
    return given | {"PATH": f"{folder / 'bin'}:/usr/sbin:{given['PATH']}", "PYTHONPATH": str(ROOT)}
