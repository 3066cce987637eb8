"""Settings of the roles: a slip in a variable's name is told once, and each is described."""

import subprocess
import sys
from collections import Counter

import pytest

from tests.system.serve_process import environment
from unet_factory.platform.settings import Settings, unknown_variables
from unet_factory_cli.settings import ROLES, known_variables


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


def test_each_setting_is_described_and_belongs_to_one_role() -> None:
    own = [name for role in ROLES.values() for name in role.__annotations__ if name != "model_config"]
    assert Counter(own).most_common(1)[0][1] == 1
    for role in ROLES.values():
        assert issubclass(role, Settings)
        assert all(field.description for field in role.model_fields.values())
