"""``python -m unet_factory_cli``: how ``serve`` starts its roles."""

from unet_factory_cli.main import app

app()
