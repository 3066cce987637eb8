"""One mutated file after another, and what became of each."""

import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tests.fuzz.inputs import packed, sound_files
from tests.fuzz.mutations import mutated
from tests.fuzz.second_opinion import second_opinion
from unet_factory.domain.errors import FactoryError, OutOfMemory, StorageFull
from unet_factory.volume import Volume, VolumeLimits, read_volume
from unet_factory.volume.geometry import as_stored

LIMITS = VolumeLimits(decompressed_bytes=2**24, voxels=2**22)
_SUFFIXES = {"nifti plain": ".nii", "nifti scaled": ".nii", "nifti gzipped": ".nii.gz"}  # others go by the name
_OURS_TO_MEND = (OutOfMemory, StorageFull)  # answered by a 5xx


@dataclass
class Outcome:
    """How often each thing happened, and the numbers of the files that prove a fault."""

    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    slowest_s: float = 0.0


def trial(seed: int, first: int, last: int, before_each: Path | None = None) -> Outcome:
    """Files ``first`` to ``last`` (excluded): the same number is the same file, whichever others are tried."""
    sound, outcome = sound_files(), Outcome()
    kinds = sorted(sound)
    with tempfile.TemporaryDirectory() as folder:
        for number in range(first, last):
            kind = kinds[number % len(kinds)]
            path = Path(folder) / f"scan{_SUFFIXES.get(kind, '.' + kind[:4].strip())}"
            path.write_bytes(packed(kind, mutated(sound[kind], np.random.default_rng((seed, number)))))
            if before_each is not None:
                before_each.write_text(str(number))
            started = time.perf_counter()
            what, fault = _tried(path)
            outcome.slowest_s = max(outcome.slowest_s, time.perf_counter() - started)
            outcome.counts[f"{kind.split()[0]}: {what}"] += 1
            outcome.faults += [f"{kind}, number {number}: {fault}"] if fault else []
    return outcome


def _tried(path: Path) -> tuple[str, str]:
    try:
        volume = read_volume(path, limits=LIMITS)
    except _OURS_TO_MEND as error:
        return error.slug, f"the service is at fault: {error}"
    except FactoryError as error:
        return f"refused, {error.slug}", ""
    except Exception as error:  # whatever it is, it is a fault
        return "failed", f"{type(error).__name__}: {error}"
    return _compared(path, volume)


def _compared(path: Path, volume: Volume) -> tuple[str, str]:
    other = second_opinion(path, volume)
    if other is None:
        return "read, the other reader refuses", ""
    ours = as_stored(volume.data, volume.header.affine)
    if any("padding" in note for note in volume.header.notes):
        return "read, padding replaced", ""
    if ours.shape == other.shape and np.allclose(ours, other.astype(np.float32), rtol=1e-6, atol=0):
        return "read, equal", ""
    return "read, other voxels", f"shape {ours.shape}, the other reader's {other.shape}"
