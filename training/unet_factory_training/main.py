"""Entry point of the training role: reads a configuration, prepares the run, trains."""

import logging
from pathlib import Path

import torch

from unet_factory_training.config import read_config
from unet_factory_training.loop import train


def run(config_path: Path, run_dir: Path | None = None, device: str | None = None) -> Path:
    """Train ``config_path``; logs and state go to ``run_dir`` (default ``runs/NAME``). Returns the checkpoint's path."""
    config = read_config(config_path)
    run_dir = run_dir or Path("runs") / config.name
    run_dir.mkdir(parents=True, exist_ok=True)
    _log_to(run_dir / "train.log")
    if config.threads:
        torch.set_num_threads(config.threads)
    chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return train(config, run_dir, chosen)


def _log_to(path: Path) -> None:
    handlers: list[logging.Handler] = [logging.FileHandler(path), logging.StreamHandler()]
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", handlers=handlers, force=True)
