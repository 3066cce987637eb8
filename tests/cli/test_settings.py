"""Settings of the roles: a slip in a variable's name is told once, and each is described."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.system.serve_process import environment
from unet_factory.platform.settings import SECRETS_DIR, Settings, unknown_variables
from unet_factory_cli.failures import CommandFailed
from unet_factory_cli.settings import ROLES, known_variables, operators_redis, read_settings
from unet_factory_worker.settings import WorkerSettings


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("UNET_FACTORY_MAX_VOXEL", "UNET_FACTORY_MAX_VOXELS"),
        ("unet_factory_retention", "UNET_FACTORY_RETENTION_S"),
        ("UNET_FACTORY_APIKEY", "UNET_FACTORY_API_KEY"),
        ("UNET_FACTORY_ZZZZZZ", None),
    ],
)
def test_an_unknown_variable_comes_with_the_closest_name(given: str, meant: str | None) -> None:
    assert unknown_variables([given, "PATH", *known_variables()], known_variables()) == {given: meant}


@pytest.mark.parametrize("role", ["gateway", "worker", "courier"])
def test_a_role_names_what_nothing_reads_once_when_it_starts(role: str) -> None:
    slips = {"max_voxel": "5", "url": "http://127.0.0.1:9", "device": "cpu", "routing": "", "models_dir": "/nowhere"}
    given = environment(**slips, redis_url="unix:///nowhere/redis", destinations="/nowhere/destinations.yml")
    command = [sys.executable, "-m", "unet_factory_cli", role]
    process = subprocess.Popen(command, env=given, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        told = [line for line in iter(process.stderr.readline, "") if "has no effect" in line or "Error" in line][:1]
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
    assert len(told) == 1
    assert "UNET_FACTORY_MAX_VOXEL is not a setting and has no effect; did you mean UNET_FACTORY_MAX_VOXELS?" in told[0]


def test_a_secret_file_stands_in_for_a_variable_and_a_variable_goes_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("UNET_FACTORY_REDIS_URL", "UNET_FACTORY_CACHE_URL"):
        monkeypatch.delenv(name, raising=False)
        (tmp_path / name).write_text(f"redis://:{name}@store:6379/0\n")
    assert operators_redis() is None
    monkeypatch.setenv(SECRETS_DIR, str(tmp_path))
    assert operators_redis() == "redis://:UNET_FACTORY_REDIS_URL@store:6379/0"
    assert read_settings(WorkerSettings).cache_url == "redis://:UNET_FACTORY_CACHE_URL@store:6379/0"
    monkeypatch.setenv("UNET_FACTORY_REDIS_URL", "redis://other:6379/0")
    assert operators_redis() == "redis://other:6379/0"
    monkeypatch.setenv(SECRETS_DIR, str(tmp_path / "missing"))
    with pytest.raises(CommandFailed, match=f"{SECRETS_DIR} is '.*missing', which is not a folder"):
        read_settings(Settings)


def test_each_setting_is_described_and_belongs_to_one_role() -> None:
    own = [name for role in ROLES.values() for name in role.__annotations__ if name != "model_config"]
    assert Counter(own).most_common(1)[0][1] == 1
    for role in ROLES.values():
        assert issubclass(role, Settings)
        assert all(field.description for field in role.model_fields.values())
