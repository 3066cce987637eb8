"""The page's files as package data, under one digest of them all.

Assets are served at ``/assets/DIGEST/PATH``, so that a browser may keep them for good and a new release is seen at
once. Files name each other by relative paths, which therefore need no rewriting.
"""

import hashlib
import mimetypes
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable

_TYPES = {".js": "text/javascript", ".wasm": "application/wasm", ".css": "text/css", ".svg": "image/svg+xml"}


@dataclass(frozen=True)
class Asset:
    """A file of the page; ``sha256`` is hexadecimal."""

    source: Traversable
    sha256: str
    media_type: str

    def read(self) -> bytes:
        return self.source.read_bytes()


@dataclass(frozen=True)
class Assets:
    """All files by their path, and the digest that stands for all of them."""

    by_path: dict[str, Asset]
    digest: str


@cache
def load_assets() -> Assets:
    """Reads every file once, to hash it; contents are read again for each request and not kept in memory."""
    found = dict(_walk(files(__package__).joinpath("static"), ""))
    whole = "\n".join(f"{path} {asset.sha256}" for path, asset in sorted(found.items()))
    return Assets(found, hashlib.sha256(whole.encode()).hexdigest()[:16])


def _walk(folder: Traversable, prefix: str) -> list[tuple[str, Asset]]:
    found = []
    for entry in folder.iterdir():
        path = f"{prefix}{entry.name}"
        if entry.is_dir():
            found += _walk(entry, f"{path}/")
        else:
            sha256 = hashlib.sha256(entry.read_bytes()).hexdigest()
            found.append((path, Asset(entry, sha256, _media_type(entry.name))))
    return found


def _media_type(name: str) -> str:
    """By the extension; never from the machine's own table, which differs from one to the next."""
    suffix = name[name.rfind(".") :]
    return _TYPES.get(suffix) or mimetypes.types_map.get(suffix, "application/octet-stream")
