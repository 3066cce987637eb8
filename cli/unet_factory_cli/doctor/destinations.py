"""Every archive of the file of destinations, asked as the courier would ask it; nothing is stored there."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from unet_factory.destinations import Destinations, DicomWeb, Dimse
from unet_factory.domain.errors import DestinationsInvalid
from unet_factory_cli.doctor.findings import Finding, Findings, failed, ok
from unet_factory_courier.courier_role import check_secrets, quiet_libraries
from unet_factory_courier.outcomes import GiveUp, TryAgain
from unet_factory_courier.probes import echo, offer, search

Archive = TypeVar("Archive", DicomWeb, Dimse)

_LONGEST_S = 10.0


def destinations(file: Path | None) -> Findings:
    part = "destinations"
    try:
        configured = Destinations.load(file)
        check_secrets(configured)
    except DestinationsInvalid as error:
        yield failed(part, str(error), "correct the file that UNET_FACTORY_DESTINATIONS names")
        return
    if not configured.pacs:
        yield ok(part, "no archive is configured")
        return
    quiet_libraries()
    for name, pacs in sorted(configured.pacs.items()):
        if pacs.dicomweb is not None:
            yield from _dicomweb(name, pacs.dicomweb)
        if pacs.dimse is not None:
            yield from _dimse(name, pacs.dimse)


def _dicomweb(name: str, archive: DicomWeb) -> Findings:
    short = _impatient(archive)
    advice = "compare url, prefixes and auth with the archive's DICOMweb settings"
    yield _asked(f"{name} QIDO-RS", lambda: search(short), f"{archive.url} answers a search", advice)
    yield _asked(f"{name} STOW-RS", lambda: offer(short), f"{archive.url} would take instances", advice)


def _dimse(name: str, archive: Dimse) -> Findings:
    place = f"{archive.called_aet} at {archive.host}:{archive.port}"
    advice = f"compare host, port and AE titles; the archive must know the caller {archive.calling_aet}"
    yield _asked(f"{name} C-ECHO", lambda: echo(_impatient(archive)), f"{place} answers", advice)


def _impatient(archive: Archive) -> Archive:
    """Somebody waits at the terminal."""
    limits = {"timeout_s": min(archive.timeout_s, _LONGEST_S), "deadline_s": min(archive.deadline_s, _LONGEST_S)}
    return archive.model_copy(update=limits)


def _asked(part: str, ask: Callable[[], None], found: str, advice: str) -> Finding:
    try:
        ask()
    except (TryAgain, GiveUp, DestinationsInvalid) as error:
        return failed(part, str(error), advice)
    return ok(part, found)
