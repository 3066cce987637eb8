"""All checks in the order in which one part stands on another."""

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from redis.exceptions import RedisError
from rich.console import Console
from rich.table import Table

from unet_factory.platform.redis_clients import connect
from unet_factory_cli.doctor import roles, stores
from unet_factory_cli.doctor.destinations import destinations
from unet_factory_cli.doctor.findings import Check, Finding, Verdict
from unet_factory_cli.embedded import EmbeddedServer
from unet_factory_cli.serve import cache_folder, jobs_folder
from unet_factory_cli.settings import read_settings
from unet_factory_service.settings import GatewaySettings

_COLOURS = {Verdict.OK: "green", Verdict.WARNING: "yellow", Verdict.FAILED: "red"}


def examine(settings: GatewaySettings, url: str, scratch: Path) -> Iterator[Finding]:
    """Check everything; what needs Redis is left out where there is none."""
    alone: list[Check] = [
        roles.variables,
        partial(stores.job_store, settings),
        partial(stores.cache, settings),
        partial(stores.blobs, settings, scratch),
        partial(roles.models, settings),
        partial(roles.gateway, url),
        partial(roles.key_for_gateway, url),
        partial(destinations, settings.destinations),
    ]
    for check in alone:
        yield from check()
    with connect(settings.redis_url) as redis:
        try:
            for ask in (
                partial(roles.workers, settings),
                roles.gpu,
                partial(roles.keys, settings),
                partial(roles.queue, settings),
            ):
                yield from ask(redis)
        except RedisError:
            return  # said already


def installation(data_dir: Path) -> GatewaySettings:
    """What the environment says, or, where it names no Redis, what ``serve`` uses for this data folder.

    Raises:
        CommandFailed: a variable has a value that is not allowed.
    """
    settings = read_settings(GatewaySettings)
    if "redis_url" in settings.model_fields_set:
        return settings
    embedded = {
        "redis_url": EmbeddedServer.url_in(jobs_folder(data_dir)),
        "cache_url": EmbeddedServer.url_in(cache_folder(data_dir)),
        "blob_url": (data_dir.resolve() / "blobs").as_uri(),
    }
    return settings.model_copy(
        update={key: value for key, value in embedded.items() if key not in settings.model_fields_set}
    )


def run(data_dir: Path, url: str, *, as_json: bool) -> bool:
    """Print the findings, as a table or one JSON object a line; whether none of them is a failure."""
    settings = installation(data_dir)
    with tempfile.TemporaryDirectory() as scratch:
        findings = list(examine(settings, url, Path(scratch)))
    if as_json:
        for finding in findings:
            print(finding.model_dump_json())  # noqa: T201 (the command's output)
    else:
        Console().print(_table(findings))
    return not any(finding.verdict is Verdict.FAILED for finding in findings)


def _table(findings: list[Finding]) -> Table:
    table = Table("part", "verdict", "found", "what to do")
    for finding in findings:
        colour = _COLOURS[finding.verdict]
        table.add_row(finding.part, f"[{colour}]{finding.verdict}[/]", finding.found, finding.advice)
    return table
