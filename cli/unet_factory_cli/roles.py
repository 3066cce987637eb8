"""One role in this process, set up by the environment."""

from pathlib import Path

import typer
from pydantic import ValidationError

from unet_factory.settings import Settings
from unet_factory_cli.failures import MISUSED, Failure


def run_gateway(host: str, port: int) -> None:
    settings = _settings()
    from unet_factory_service.main import run

    run(settings, host, port)


def run_worker() -> None:
    settings = _settings()
    from unet_factory_worker.main import run

    if status := run(settings):
        raise typer.Exit(status)


def run_training(config: Path, run_dir: Path | None, device: str | None) -> None:
    """
    Raises:
        Failure: the file cannot be read, or is no configuration.
    """
    if not config.is_file():
        raise Failure(f"there is no file {config}", MISUSED)
    import yaml

    from unet_factory_training.config import read_config
    from unet_factory_training.main import run

    try:
        read_config(config)
    except (ValueError, OSError, yaml.YAMLError) as error:  # pydantic's ValidationError is a ValueError
        raise Failure(f"{config} is no training configuration: {_first_fault(error)}", MISUSED) from error
    run(config, run_dir, device)


def _settings() -> Settings:
    try:
        return Settings()
    except ValidationError as error:
        raise Failure(f"a UNET_FACTORY_ variable is wrong: {_first_fault(error)}", MISUSED) from error


def _first_fault(error: Exception) -> str:
    if isinstance(error, ValidationError):
        fault = error.errors(include_url=False)[0]
        return f"{'.'.join(map(str, fault['loc']))}: {fault['msg']} (it is {fault['input']!r})"
    return " ".join(str(error).split())
