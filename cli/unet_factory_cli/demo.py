"""``unet-factory demo``: the whole factory at work on real scans, from start to stop, with proof."""

import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import httpx
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from unet_factory.domain.spacing import SpacingMm
from unet_factory.platform.installed_models import EXAMPLES_GROUP, installed_folders
from unet_factory_cli.demo_picture import draw_overlay
from unet_factory_cli.demo_scans import DemoScan, Segmented, labels_in_process, read_scans, simulate
from unet_factory_cli.demo_service import running_service
from unet_factory_cli.demo_table import Row, spacing_text, table_of
from unet_factory_cli.failures import CommandFailed
from unet_factory_client import FactoryClient, FactoryProblem

NATIVE: SpacingMm = (1.0, 1.0, 1.0)
PROOF: SpacingMm = (1.0, 0.5, 0.5)
# coarse slices, coarse, very coarse, finer than acquired, and the first again: its networks are ready by then
SPACINGS: tuple[SpacingMm, ...] = (NATIVE, (1.0, 1.0, 3.0), (2.0,) * 3, (3.0,) * 3, (0.7,) * 3, PROOF, NATIVE)
QUICK: tuple[SpacingMm, ...] = (NATIVE, PROOF, NATIVE)
LOWEST_CREDIBLE_DICE = 0.7

_ROOT = Path(__file__).parents[2]  # of a checkout; without one, models and scans are those that are installed


def run_demo(
    output: Path, models_dir: Path | None, spacings: Sequence[SpacingMm] = SPACINGS, *, as_json: bool = False
) -> None:
    """Write ``overlay.png`` and a standalone network to ``output``, and print the results.

    Args:
        spacings: mm (R, A, S), in turn; the first is native, ``PROOF`` is among them, the last repeats the first.

    Raises:
        CommandFailed: any step failed, or a result is not what it must be.
    """
    started = time.monotonic()
    console = Console(stderr=as_json)
    scans = read_scans(_examples())
    output.mkdir(parents=True, exist_ok=True)
    with _clear_failures(), tempfile.TemporaryDirectory(prefix="unet-factory-demo-") as scratch:
        folder = Path(scratch)
        console.print("starting servers, worker and gateway ...")
        with running_service(folder, models_dir or _ROOT / "models") as client:
            segmented = _segment_all(client, scans, spacings, folder, console)
            console.print(table_of(_rows(segmented)))
            network = _prove_network(client, segmented[spacings.index(PROOF)], output, console)
        console.print("stopped servers, worker and gateway")
    draw_overlay(output / "overlay.png", [results[0] for results in segmented[:-1]])
    seconds = time.monotonic() - started
    console.print(f"picture: {output / 'overlay.png'}; {seconds:.0f} s in total", soft_wrap=True)
    if as_json:
        files = {"picture": str(output / "overlay.png"), "network": str(network)}
        rows = [asdict(row) for row in _rows(segmented)]
        print(json.dumps({"spacings": rows, **files, "seconds": round(seconds, 1)}))  # noqa: T201 (the output)
    _check_dice(_rows(segmented)[0])


def _examples() -> Path:
    """
    Raises:
        CommandFailed: the scans are not installed.
    """
    own = _ROOT / "examples" / "hippocampus"
    found = next(iter([own] if own.is_dir() else installed_folders(EXAMPLES_GROUP)), None)
    if found is None:
        raise CommandFailed("the demo's scans are missing; install them: pip install 'unet-factory[models]'")
    return found


def _segment_all(
    client: FactoryClient, scans: Sequence[DemoScan], spacings: Sequence[SpacingMm], folder: Path, console: Console
) -> list[list[Segmented]]:
    """Per spacing, every scan's result."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("", total=len(spacings) * len(scans))

        def one(scan: DemoScan, spacing_mm: SpacingMm) -> Segmented:
            progress.update(bar, description=f"{scan.name} at {spacing_text(spacing_mm)} mm")
            result = _segment(client, simulate(scan, spacing_mm, folder), folder)
            progress.advance(bar)
            return result

        return [[one(scan, spacing_mm) for scan in scans] for spacing_mm in spacings]


def _segment(client: FactoryClient, scan: DemoScan, folder: Path) -> Segmented:
    """Through the service, as anybody would."""
    started = time.perf_counter()
    labelmap = folder / f"{scan.name}-labels.nii.gz"
    job = client.segment(scan.path, labelmap)
    return Segmented.of(scan, labelmap, job, seconds=time.perf_counter() - started)


def _rows(segmented: Sequence[Sequence[Segmented]]) -> list[Row]:
    return [Row.of(results) for results in segmented]


def _prove_network(client: FactoryClient, results: Sequence[Segmented], output: Path, console: Console) -> Path:
    """The network that ``/unet`` hands out, run in plain PyTorch here, gives the service's own label maps; its file."""
    network = client.unet(PROOF)
    path = output / f"unet-{spacing_text(network.snapped_mm).replace(' ', '')}mm.safetensors"
    network.save(path)
    voxels = sum(result.labels.size for result in results)
    equal = sum(int((labels_in_process(path, result) == result.labels).sum()) for result in results)
    console.print(
        f"GET /unet?spacing=1,0.5,0.5: {len(network.blob) / 1e6:.1f} MB, {path}\n"
        f"in plain PyTorch it gives {equal} of {voxels} voxels the same label as the gateway: {equal / voxels:.2%}",
        soft_wrap=True,
    )
    if equal != voxels:
        raise CommandFailed(f"the standalone network and the gateway differ in {voxels - equal} voxels")
    return path


def _check_dice(native: Row) -> None:
    if min(native.dice) < LOWEST_CREDIBLE_DICE:
        raise CommandFailed(
            f"Dice at native spacing is {native.dice}, below {LOWEST_CREDIBLE_DICE}: something is wrong"
        )


@contextmanager
def _clear_failures() -> Iterator[None]:
    try:
        yield
    except FactoryProblem as problem:
        raise CommandFailed(f"the gateway refused a step: {problem}") from problem
    except httpx.TransportError as error:
        raise CommandFailed(f"the gateway stopped answering: {error or type(error).__name__}") from error
    except KeyboardInterrupt:
        raise CommandFailed("interrupted") from None
