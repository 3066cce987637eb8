"""Where ``serve`` keeps its data unless told otherwise."""

from pathlib import Path


def user_data_dir() -> Path:
    """Where this system keeps a user's application data."""
    from platformdirs import user_data_path

    return user_data_path("unet-factory", appauthor=False)
