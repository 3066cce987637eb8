"""Errors that a person reads: one clear line and an exit code, never a traceback for a mistake of theirs."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from unet_factory.domain.errors import FactoryError

FAILED = 1
MISUSED = 2


class CommandFailed(Exception):
    """The command cannot go on; the message says why and what to do. ``exit_code`` 2: it was called wrongly."""

    def __init__(self, message: str, exit_code: int = FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@contextmanager
def clear_errors(extra: str) -> Iterator[None]:
    """Say what went wrong on standard error and end the command.

    ``extra``: the one of this distribution that brings the packages which the command needs.
    """
    try:
        yield
    except CommandFailed as failure:
        raise _ended(str(failure), failure.exit_code) from None
    except FactoryError as error:
        raise _ended(f"{error.title}: {error}", FAILED) from None
    except ModuleNotFoundError as error:
        raise _ended(_missing(error.name or "", extra), FAILED) from None


def say(message: str) -> None:
    """A line for the person at the terminal, apart from the command's output."""
    typer.echo(message, err=True)


_UNIX_MODULES = ("fcntl", "grp", "pwd", "resource", "termios")


def _missing(package: str, extra: str) -> str:
    if package in _UNIX_MODULES:
        return (
            "this command needs Linux or macOS (on Windows: WSL);"
            " segment, unet, models, quote, jobs, deliveries, status and the Python client work here"
        )
    if package.partition(".")[0] == "unet_factory_research":
        return "the experiments are not installed with the package; run them from the project's source: make setup"
    return f"the package {package} is missing; install it: pip install 'unet-factory[{extra}]'"


def _ended(message: str, exit_code: int) -> typer.Exit:
    say(f"unet-factory: {message}")
    return typer.Exit(exit_code)
