"""API keys from the command line, of a factory that runs or stands still; and sent by those who have one."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis
from typer.testing import CliRunner, Result

from tests.fixtures.settings import FactorySettings
from tests.service.keyed import keyed_gateway
from unet_factory.platform.api_keys import KeyStore, Scope
from unet_factory_cli.commands import app
from unet_factory_cli.embedded import EmbeddedServer
from unet_factory_client import FactoryClient, FactoryProblem

TOKEN = re.compile(r"unf_[0-9a-f]{12}_[0-9a-f]{64}\n")


def keys(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["keys", *map(str, arguments)], env={"COLUMNS": "200"})


@pytest.fixture(params=["stopped", "given"])
def where(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Options that lead to a factory's store: one that stands still, or the server that the environment names."""
    monkeypatch.delenv("UNET_FACTORY_REDIS_URL", raising=False)
    if request.param == "given":
        server = request.getfixturevalue("redis_server")
        Redis.from_url(server.redis_url).flushall()
        monkeypatch.setenv("UNET_FACTORY_REDIS_URL", server.redis_url)
    yield ["--data-dir", str(tmp_path / "data")]
    assert not (tmp_path / "data" / "jobs" / "socket").exists(), "nothing is left running"


def test_a_key_is_made_shown_once_listed_rotated_and_revoked(where: list[str]) -> None:
    limits = ["--jobs-in-flight", 7, "--stored-bytes", 5000]
    made = keys("create", "ward 3", "--scope", "segment", "--scope", "weights", *limits, *where)
    assert TOKEN.fullmatch(made.stdout), made.output
    key_id = made.stdout.split("_")[1]
    listed = keys("list", *where)
    assert all(
        word in listed.stdout for word in (key_id, "ward 3", "segment, weights", "valid", "7 jobs", "5000 bytes")
    )
    assert made.stdout.strip() not in listed.output
    rotated = keys("rotate", key_id, "--overlap", 2, *where)
    assert TOKEN.fullmatch(rotated.stdout)
    assert rotated.stdout.split("_")[1] == key_id
    assert rotated.stdout != made.stdout
    assert "old secret until" in keys("list", *where).stdout
    assert keys("revoke", key_id, *where).exit_code == 0
    assert "revoked" in keys("list", *where).stdout
    refused = keys("rotate", key_id, *where)
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "revoked or has expired" in refused.stderr


def test_json_tells_keys_and_a_secret_only_once(where: list[str], tmp_path: Path) -> None:
    made = json.loads(keys("create", "ward 3", "--scope", "read", "--json", *where).stdout)
    assert TOKEN.fullmatch(made["key"] + "\n")
    (listed,) = json.loads(keys("list", "--json", *where).stdout)
    assert listed == {name: value for name, value in made.items() if name != "key"}
    rotated = json.loads(keys("rotate", made["id"], "--json", *where).stdout)
    assert rotated["key"] != made["key"]
    assert json.loads(keys("revoke", made["id"], "--json", *where).stdout)["valid"] is False
    file = tmp_path / "secret"
    for _ in range(2):  # made, then kept
        told = json.loads(keys("create", "x", "--scope", "read", "--json", "--secret-file", file, *where).stdout)
        assert (told["name"], told["secret_file"], "key" in told) == ("x", str(file), False)


def test_a_kept_key_file_that_others_could_read_is_closed(where: list[str], tmp_path: Path) -> None:
    file = tmp_path / "secret"
    for _ in range(2):
        assert keys("create", "ward 3", "--scope", "read", "--secret-file", str(file), *where).exit_code == 0
        assert file.stat().st_mode & 0o777 == 0o600
        file.chmod(0o644)


@pytest.mark.parametrize(
    ("arguments", "exit_code", "message"),
    [
        (["create", "x", "--scope", "all"], 2, "allowed are segment, weights, read, admin"),
        (["create", "a\tb", "--scope", "read"], 1, "must be 1 to 64 letters"),
        (["create", "x", "--scope", "read", "--shares-jobs-of", "none"], 1, "there is no API key 'none'"),
        (["revoke", "none"], 1, "there is no API key 'none'"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(
    redis_server: EmbeddedServer,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    exit_code: int,
    message: str,
) -> None:
    monkeypatch.setenv("UNET_FACTORY_REDIS_URL", redis_server.redis_url)
    refused = keys(*arguments)
    assert (refused.exit_code, refused.stdout) == (exit_code, "")
    assert message in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1


def test_the_caller_sends_the_key_that_it_is_given(
    settings: FactorySettings, redis: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with keyed_gateway(settings, redis) as keyed:
        token = KeyStore(redis).create("caller", (Scope.READ,)).token
        with FactoryClient(keyed.gateway.url, retry_for_s=0) as nobody, pytest.raises(FactoryProblem) as caught:
            nobody.models()
        assert caught.value.status == 401
        with FactoryClient(keyed.gateway.url, api_key=token) as client:
            assert [model.name for model in client.models()] == ["tiny"]
        file = tmp_path / "key"
        file.write_text(f"{token}\n")
        for environment, options in (
            ({}, ["--api-key", token]),
            ({"UNET_FACTORY_API_KEY": token}, []),
            ({"UNET_FACTORY_API_KEY_FILE": str(file)}, []),
        ):
            shown = CliRunner().invoke(app, ["models", "--url", keyed.gateway.url, *options], env=environment)
            assert "tiny" in shown.stdout, shown.output
        refused = CliRunner().invoke(app, ["models", "--url", keyed.gateway.url])
        assert refused.exit_code == 1
        assert "A valid API key is required" in refused.stderr
        assert "pass --api-key or set UNET_FACTORY_API_KEY" in refused.stderr


def test_a_key_in_a_file_is_made_once_kept_while_it_is_valid_and_replaced_after(
    where: list[str], tmp_path: Path
) -> None:
    file = tmp_path / "pacs.key"
    arguments = ["create", "pacs", "--scope", "segment", "--secret-file", file, *where]
    made = keys(*arguments)
    assert (made.exit_code, made.stdout) == (0, "")
    assert file.stat().st_mode & 0o777 == 0o600
    first = file.read_text()
    assert TOKEN.fullmatch(first)
    assert keys(*arguments).exit_code == 0
    assert file.read_text() == first
    assert keys("revoke", first.split("_")[1], *where).exit_code == 0
    assert keys(*arguments).exit_code == 0
    assert TOKEN.fullmatch(file.read_text())
    assert file.read_text() != first
