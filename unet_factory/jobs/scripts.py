"""What Redis does at one stroke, as Lua scripts beside this file: nobody sees, or dies in, the middle of a step.

A line ``--@include NAME`` stands for the text of ``lua/NAME.lua``. Scripts that begin with ``#!lua flags=allow-oom``
(Redis 7, Valkey) run in a server that has reached its ``maxmemory`` too: that limit refuses new jobs, and never what
frees memory or finishes work that was accepted.
"""

import re
from functools import cache
from importlib import resources

_INCLUDE = re.compile(r"^--@include (\w+)\n", re.MULTILINE)


@cache
def lua(name: str) -> str:
    """The whole text of a script, to be registered with a Redis client."""
    return _INCLUDE.sub(lambda found: _text(found[1]), _text(name))


def _text(name: str) -> str:
    return resources.files(__package__).joinpath("lua", f"{name}.lua").read_text("utf-8")
