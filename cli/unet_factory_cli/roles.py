"""One role in this process, set up by the environment."""

from pathlib import Path

import typer

from unet_factory_cli.failures import MISUSED, CommandFailed
from unet_factory_cli.own_key import own_key


def run_gateway(host: str, port: int) -> None:
    from unet_factory_cli.settings import start_with_settings
    from unet_factory_service.settings import GatewaySettings

    settings = start_with_settings(GatewaySettings)
    from unet_factory_service.app import run

    run(settings, host, port)


def run_worker() -> None:
    from unet_factory_cli.settings import start_with_settings
    from unet_factory_worker.settings import WorkerSettings

    settings = start_with_settings(WorkerSettings)
    from unet_factory_worker.celery_app import run

    if status := run(settings):
        raise typer.Exit(status)


def run_listener(
    allow: list[str],
    spool: Path,
    ae_title: str,
    host: str,
    port: int,
    quiet_s: float,
    after_abort_s: float,
    gateway_url: str,
    api_key: str | None,
) -> None:
    """
    Raises:
        CommandFailed: an AE title is none, the spool cannot be written, or the port cannot be had.
    """
    from unet_factory.platform.settings import Settings
    from unet_factory_cli.settings import start_with_settings

    settings = start_with_settings(Settings)
    from unet_factory_listener.listener_role import run
    from unet_factory_listener.options import ListenerOptions

    options = ListenerOptions(
        ae_title=ae_title,
        allowed=tuple(allow),
        host=host,
        port=port,
        spool=spool,
        gateway_url=gateway_url,
        quiet_s=quiet_s,
        after_abort_s=after_abort_s,
        keep_refused_s=settings.retention_s,
        max_instance_bytes=settings.max_upload_bytes,
        api_key=own_key(api_key) or "",
    )
    try:
        run(options, settings.log_format, settings.traces_url)
    except (OSError, ValueError) as error:
        raise CommandFailed(f"cannot listen as {ae_title} on {host}:{port}: {error}", MISUSED) from error


def run_courier() -> None:
    """
    Raises:
        DestinationsInvalid: the file of destinations cannot be used, or a secret is missing.
    """
    from unet_factory_cli.settings import start_with_settings
    from unet_factory_courier.settings import CourierSettings

    settings = start_with_settings(CourierSettings)
    from unet_factory_courier.courier_role import run

    run(settings)
