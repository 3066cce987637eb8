"""The command ``unet-factory``, also as ``python -m unet_factory_cli``: how ``serve`` starts its roles."""

import sys


def main() -> None:
    """Run the command line; say which extra it needs where its own packages are missing."""
    try:
        from unet_factory_cli.commands import app
    except ModuleNotFoundError as error:
        sys.exit(f"unet-factory: the package {error.name} is missing; install it: pip install 'unet-factory[cli]'")
    app()


if __name__ == "__main__":
    main()
