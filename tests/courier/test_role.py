"""The courier as a role: without torch, and with one clear line where it is set up wrongly."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.system.serve_process import environment


def test_the_courier_imports_neither_torch_nor_another_role() -> None:
    code = "import sys, unet_factory_courier.courier_role; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    others = {"unet_factory_service", "unet_factory_worker", "unet_factory_cli"}
    assert not {"torch", "monai", *others} & set(loaded)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "No such file"),
        ("pacs: {main: {dicomweb: {url: nonsense}}}", "pacs.main.dicomweb.url"),
        ("webhooks: {allow: [a.example], secrets: [{env: NOT_SET}]}", "the secret in NOT_SET is missing"),
    ],
)
def test_a_wrong_set_up_is_one_clear_line(tmp_path: Path, text: str | None, said: str) -> None:
    file = tmp_path / "destinations.yml"
    if text is not None:
        file.write_text(text)
    command = [sys.executable, "-m", "unet_factory_cli", "courier"]
    ended = subprocess.run(
        command, env=environment(destinations=file), capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 1
    (line,) = ended.stderr.strip().splitlines()
    assert said in line
