"""Which scans a command line names, and where the results of each go."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from unet_factory.domain.errors import FactoryError
from unet_factory.domain.segmentation_parameters import LabelMapFormat
from unet_factory.volume import sniff_format
from unet_factory_cli.failures import MISUSED, CommandFailed

OUTPUT_FORMATS: tuple[LabelMapFormat, ...] = ("nii.gz", "nrrd")
DICOM_SUFFIX = ".dcm"
PREVIEW_SUFFIX = ".png"

_SCAN_SUFFIXES = (".nii.gz", ".nii", ".mha", ".nrrd", ".zip")


@dataclass(frozen=True)
class Task:
    """One scan with the files to be made of it; without ``scan``, a series in an archive."""

    scan: Path | None
    output: Path
    preview: Path | None = None
    report: Path | None = None

    @property
    def has_labelmap(self) -> bool:
        return self.output.suffix != DICOM_SUFFIX

    @property
    def is_done(self) -> bool:
        return self.output.exists() and (self.preview is None or self.preview.exists())

    @property
    def implied(self) -> dict[str, str]:
        """The parameters that follow from the files: naming a type has a scan without DICOM results refused at once."""
        wanted: dict[str, str] = {"output": format_of(self.output)} if self.has_labelmap else {}
        if self.report is not None or not self.has_labelmap:
            wanted["seg_type"] = "binary"
        return wanted

    def check(self) -> None:
        """
        Raises:
            CommandFailed: a suffix that contradicts the format, or a folder that does not exist.
        """
        if self.has_labelmap:
            format_of(self.output)
        for path, suffix in ((self.report, DICOM_SUFFIX), (self.preview, PREVIEW_SUFFIX)):
            if path is not None and path.suffix != suffix:
                raise CommandFailed(f"{path} must end with {suffix}", MISUSED)
        for path in filter(None, (self.output, self.report, self.preview)):
            check_folder(path)


def is_batch(scans: Sequence[Path], output: Path) -> bool:
    """Whether ``output`` is a folder to fill: it is one, or there are several scans, or a folder of them."""
    named_file = output.name.endswith((*OUTPUT_FORMATS, DICOM_SUFFIX))
    return len(scans) > 1 or (not named_file and (output.is_dir() or any(scan.is_dir() for scan in scans)))


def batch_of(scans: Sequence[Path], output: Path, previews: Path | None) -> list[Task]:
    """A task for each scan, and for each one below a folder, whose tree is mirrored in ``output`` and ``previews``.

    A folder that holds DICOM files is one scan, of their series.

    Raises:
        CommandFailed: no scan is there, or two results would have the same name.
    """
    if output.is_file() or output.name.endswith((*OUTPUT_FORMATS, DICOM_SUFFIX)):
        raise CommandFailed(f"several scans need a folder for their label maps; {output} is a file's name", MISUSED)
    tasks: dict[Path, Task] = {}
    for scan, relative in _scans_below(scans, ignored=(output, previews)):
        name = relative.with_name(_stem(relative))
        target = output / f"{name}.nii.gz"
        if (other := tasks.get(target)) is not None:
            raise CommandFailed(f"{other.scan} and {scan} would both become {target}; give them apart", MISUSED)
        tasks[target] = Task(scan, target, None if previews is None else previews / f"{name}{PREVIEW_SUFFIX}")
    if not tasks:
        raise CommandFailed(
            f"there is no scan in {', '.join(map(str, scans))}: no file with {', '.join(_SCAN_SUFFIXES)}, and no "
            "folder of DICOM files",
            MISUSED,
        )
    return list(tasks.values())


def format_of(output: Path) -> LabelMapFormat:
    """
    Raises:
        CommandFailed: its name says no format of a label map.
    """
    for output_format in OUTPUT_FORMATS:
        if output.name.endswith(f".{output_format}"):
            return output_format
    raise CommandFailed(
        f"{output} must end with {', '.join('.' + known for known in OUTPUT_FORMATS)} or {DICOM_SUFFIX}, "
        "or be a folder that exists",
        MISUSED,
    )


def check_folder(output: Path) -> None:
    """
    Raises:
        CommandFailed: the folder that a file goes to does not exist.
    """
    if not output.parent.is_dir():
        raise CommandFailed(f"there is no folder {output.parent} for {output.name}", MISUSED)


def _scans_below(scans: Sequence[Path], ignored: Sequence[Path | None]) -> Iterator[tuple[Path, Path]]:
    """Each scan with its path relative to the folder that was named."""
    left_out = {path.resolve() for path in ignored if path is not None}
    for scan in scans:
        if not scan.is_dir():
            yield scan, Path(scan.name)
            continue
        if _holds_dicom(scan):
            yield scan, Path(scan.resolve().name)
            continue
        for folder, subfolders, names in os.walk(scan):
            here = Path(folder)
            subfolders[:] = sorted(name for name in subfolders if (here / name).resolve() not in left_out)
            series = [name for name in subfolders if _holds_dicom(here / name)]
            subfolders[:] = [name for name in subfolders if name not in series]
            found = [name for name in names if name.endswith(_SCAN_SUFFIXES) and not name.startswith(".")]
            for name in sorted([*series, *found]):
                yield here / name, (here / name).relative_to(scan)


def _holds_dicom(folder: Path) -> bool:
    """Whether a file directly in the folder, other than a volume by its name, is a DICOM object."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name.endswith(_SCAN_SUFFIXES) or not path.is_file():
            continue
        try:
            return sniff_format(path) == "dicom"
        except FactoryError:
            continue
    return False


def _stem(path: Path) -> str:
    return next((path.name.removesuffix(end) for end in _SCAN_SUFFIXES if path.name.endswith(end)), path.name)
