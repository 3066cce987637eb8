"""``python -m unet_factory_cli``: how ``serve`` starts its roles."""

from unet_factory_cli.commands import app

app()
