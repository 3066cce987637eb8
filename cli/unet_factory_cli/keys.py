"""The commands that make and end API keys, straight in the store of the jobs: nobody needs a key to make the first."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from redis import Redis
from redis.exceptions import RedisError
from rich.console import Console
from rich.table import Column, Table

from unet_factory.platform.api_keys import ApiKey, KeyStore, Scope
from unet_factory.platform.atomic_files import whole_file
from unet_factory.platform.private_files import make_private, owner_only
from unet_factory.platform.redis_clients import connect
from unet_factory_cli.embedded import JOBS_OPTIONS, EmbeddedServer
from unet_factory_cli.failures import MISUSED, CommandFailed, say
from unet_factory_cli.serve import jobs_folder, sole_user
from unet_factory_cli.settings import operators_redis

_DAY_S = 24 * 3600.0
_HOUR_S = 3600.0


class Limits(NamedTuple):
    """Of a new key; None: it never expires, and the gateway's own limits hold."""

    days: float | None
    requests_per_minute: int | None
    jobs_in_flight: int | None
    stored_bytes: int | None


def create(
    data_dir: Path,
    name: str,
    scopes: list[str],
    shares_jobs_of: str | None,
    limits: Limits,
    secret_file: Path | None,
    *,
    as_json: bool,
) -> None:
    """The key itself goes to ``secret_file`` (mode 0600), else to standard output; all else to standard error.

    With a file the command can be repeated at each start: a key of the same name and scopes that is in the file
    already, and still valid, is kept.

    Raises:
        CommandFailed: there is no such scope, or the file cannot be read or written.
    """
    try:
        wanted = tuple(Scope(scope) for scope in dict.fromkeys(scopes))
    except ValueError:
        raise CommandFailed(f"--scope is {', '.join(scopes)}; allowed are {', '.join(Scope)}", MISUSED) from None
    with _store(data_dir) as keys:
        kept = _held(keys, secret_file, name, wanted) if secret_file else None
        if secret_file and kept:
            make_private(secret_file)
            say(f"the key for {name} in {secret_file} is valid; it is kept")
            if as_json:
                _print_json(_described(kept) | {"secret_file": str(secret_file)})
            return
        key, token = keys.create(
            name,
            wanted,
            shares_jobs_of=shares_jobs_of,
            expires=None if limits.days is None else time.time() + limits.days * _DAY_S,
            requests_per_minute=limits.requests_per_minute,
            jobs_in_flight=limits.jobs_in_flight,
            stored_bytes=limits.stored_bytes,
        )
    described = f"key {key.id} for {key.name} ({', '.join(key.scopes)})"
    if secret_file:
        _write(secret_file, token)
        say(f"{described} is in {secret_file}")
    else:
        say(f"{described}; it is shown only now:")
    if as_json:
        _print_json(_described(key) | ({"secret_file": str(secret_file)} if secret_file else {"key": token}))
    elif not secret_file:
        print(token)  # noqa: T201 (the command's output)


def show(data_dir: Path, *, as_json: bool) -> None:
    with _store(data_dir) as keys:
        found = keys.all()
    if as_json:
        _print_json([_described(key) for key in found])
        return
    table = Table(Column("id", no_wrap=True), "name", "scopes", "jobs of", "created (UTC)", "state", "limits")
    for key in found:
        table.add_row(*_cells(key))
    Console().print(table)


def revoke(data_dir: Path, key_id: str, *, as_json: bool) -> None:
    with _store(data_dir) as keys:
        key = keys.revoke(key_id)
    say(f"key {key.id} of {key.name} is revoked")
    if as_json:
        _print_json(_described(key))


def rotate(data_dir: Path, key_id: str, overlap_h: float, *, as_json: bool) -> None:
    """The new key goes to standard output."""
    with _store(data_dir) as keys:
        key, token = keys.rotate(key_id, overlap_h * _HOUR_S)
    say(f"key {key.id} of {key.name} has a new secret, shown only now; the old one is valid for {overlap_h:g} h more:")
    if as_json:
        _print_json(_described(key) | {"key": token})
    else:
        print(token)  # noqa: T201 (the command's output)


@contextmanager
def _store(data_dir: Path) -> Iterator[KeyStore]:
    """In the operator's Redis, else in that of a running ``serve``, else in its data, with a server for the moment."""
    url = operators_redis()
    try:
        if url is not None:
            yield KeyStore(connect(url))
        elif _answers(EmbeddedServer.url_in(jobs_folder(data_dir))):
            yield KeyStore(Redis.from_url(EmbeddedServer.url_in(jobs_folder(data_dir))))
        else:
            with owner_only(), sole_user(data_dir):
                server = EmbeddedServer.start(jobs_folder(data_dir), JOBS_OPTIONS)
                try:
                    yield KeyStore(Redis.from_url(server.redis_url))
                finally:
                    server.stop()
    except RedisError as error:
        raise CommandFailed(f"the job store cannot be used: {error}") from error


def _held(keys: KeyStore, secret_file: Path, name: str, scopes: tuple[Scope, ...]) -> ApiKey | None:
    """The key in the file, if it is valid and has this name and these scopes."""
    try:
        token = secret_file.read_text().strip()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise CommandFailed(f"--secret-file {secret_file} cannot be read", MISUSED) from error
    key = keys.named_in(token)
    if key is None or not key.accepts(token, time.time()) or (key.name, set(key.scopes)) != (name, set(scopes)):
        return None
    return key


def _write(secret_file: Path, token: str) -> None:
    try:
        with whole_file(secret_file) as partial:
            partial.touch(mode=0o600)
            partial.write_text(token + "\n")
    except OSError as error:
        raise CommandFailed(f"--secret-file {secret_file} cannot be written: {error.strerror}", MISUSED) from error


def _answers(url: str) -> bool:
    try:
        with Redis.from_url(url) as redis:
            return bool(redis.ping())
    except RedisError:
        return False


def _described(key: ApiKey) -> dict[str, Any]:
    """Without its secrets' hashes; times in seconds since the epoch."""
    return key.model_dump(mode="json", exclude={"secrets"}) | {"valid": key.valid(time.time())}


def _print_json(value: object) -> None:
    print(json.dumps(value, indent=2))  # noqa: T201 (the command's output)


def _cells(key: ApiKey) -> list[str]:
    limits = {"requests/min": key.requests_per_minute, "jobs": key.jobs_in_flight, "bytes": key.stored_bytes}
    return [
        key.id,
        key.name,
        ", ".join(key.scopes),
        "its own" if key.owner == key.id else key.owner,
        _date(key.created),
        _state(key, time.time()),
        ", ".join(f"{value} {name}" for name, value in limits.items() if value is not None),
    ]


def _state(key: ApiKey, now: float) -> str:
    if key.revoked is not None:
        return f"revoked {_date(key.revoked)}"
    if not key.valid(now):
        return "expired"
    old = [secret.expires for secret in key.secrets if secret.expires is not None and secret.holds(now)]
    state = "valid" if key.expires is None else f"valid until {_date(key.expires)}"
    return f"{state}, old secret until {_date(max(old))}" if old else state


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(sep=" ", timespec="minutes").removesuffix("+00:00")
