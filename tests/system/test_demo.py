"""The demo on a model that knows nothing: it must do every step, prove the network, and still say that it failed."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.fixtures.project import HIPPOCAMPUS
from unet_factory.volume import read_header
from unet_factory_cli.demo import NATIVE, PROOF, SPACINGS, run_demo
from unet_factory_cli.demo_scans import read_scans, simulate
from unet_factory_cli.failures import CommandFailed

pytestmark = [pytest.mark.system, pytest.mark.slow]


def test_the_demo_does_every_step_and_fails_honestly(
    tiny_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with one_thread(monkeypatch), pytest.raises(CommandFailed, match="something is wrong"):
        run_demo(tmp_path / "out", tiny_models, (NATIVE, (3.0, 3.0, 3.0), PROOF, NATIVE))
    said = capsys.readouterr().out
    assert "the same label as the gateway: 100.00%" in said
    assert "3 of 3" in said
    assert "stopped servers, worker and gateway" in said
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"overlay.png", "unet-1x0.5x0.5mm.safetensors"}
    assert not list(tmp_path.glob("unet-factory*"))


@pytest.mark.parametrize("spacing_mm", SPACINGS[1:-1], ids=str)
def test_a_simulated_scan_has_its_spacing_and_keeps_its_centre(
    tmp_path: Path, spacing_mm: tuple[float, float, float]
) -> None:
    scan = read_scans(HIPPOCAMPUS)[0]
    simulated = simulate(scan, spacing_mm, tmp_path)
    header = read_header(simulated.path)
    assert header.spacing_ras_mm == pytest.approx(spacing_mm)
    centres = [
        affine @ [*((extent - 1) / 2 for extent in shape), 1]
        for affine, shape in ((scan.affine, scan.image.shape), (header.affine, header.shape))
    ]
    assert np.allclose(centres[0], centres[1], atol=1e-4)
    assert simulated.expert.shape == simulated.image.shape
    volume_ml = [np.count_nonzero(each.expert) * np.prod(each.spacing_mm) / 1000 for each in (scan, simulated)]
    assert volume_ml[1] == pytest.approx(volume_ml[0], rel=0.15)


@contextmanager
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Here and in the worker: sums depend on how they are split."""
    monkeypatch.setenv("UNET_FACTORY_THREADS", "1")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
