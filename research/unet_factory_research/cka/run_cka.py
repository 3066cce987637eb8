"""Entry point of the analysis: read a configuration, compare the checkpoints' layers, publish."""

import logging
from collections.abc import Sequence
from pathlib import Path

from unet_factory_research.cka.analysis import PUBLISHED, analyse
from unet_factory_research.cka.options import CkaOptions
from unet_factory_research.cka.page import publish_page
from unet_factory_training.config import read_config


def run_cka(
    checkpoints: Sequence[Path],
    config_path: Path,
    options: CkaOptions,
    output: Path,
    device: str | None = None,
    publish_to: Path | None = None,
    command: str = "unet-factory cka",
) -> None:
    """Compare the layers of the checkpoints' networks on the configuration's scans; figure, maps and summary go to
    ``output``, and with ``publish_to`` a page that says which ``command`` made it.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    summary = analyse(checkpoints, read_config(config_path), options, output, device)
    if publish_to is not None:
        publish_page(summary, command, output, PUBLISHED, publish_to)
