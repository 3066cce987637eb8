"""Names of files in a data set's folder, as they lie on people's disks."""

from pathlib import Path, PurePosixPath


def scan_files(root: Path, pattern: str) -> list[Path]:
    """The files below ``root`` that match ``pattern``, sorted, without what file managers leave beside them."""
    return [path for path in sorted(root.glob(pattern)) if not is_litter(path.relative_to(root).as_posix())]


def is_litter(name: str) -> bool:
    """Whether a path within a data set is one that an operating system left there: ``._NAME`` beside each file on
    foreign file systems (AppleDouble, RFC 1740), ``.DS_Store``, ``__MACOSX/`` in unpacked archives.
    """
    return any(
        part == "__MACOSX" or (part.startswith(".") and part not in (".", "..")) for part in as_posix(name).parts
    )


def as_posix(name: str) -> PurePosixPath:
    """A relative path as a description states it, which on Windows is written with backslashes."""
    return PurePosixPath(name.replace("\\", "/"))
