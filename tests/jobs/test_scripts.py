"""The Lua scripts: they know the same keys as Python, and come along with the package."""

import json
from importlib import resources
from pathlib import Path

import pytest
from redis import Redis

from unet_factory.domain.jobs import Delivery, DeliveryKind
from unet_factory.jobs import keys
from unet_factory.jobs.scripts import lua

NAMES = sorted(Path(entry.name).stem for entry in resources.files("unet_factory.jobs").joinpath("lua").iterdir())
DELIVERY = Delivery(kind=DeliveryKind.DICOMWEB, destination="archive")
CALLS = {
    "job_key": ("7", "'7'"),
    "lease_key": ("7", "'7'"),
    "tombstone_key": ("7", "'7'"),
    "events_channel": ("7", "'7'"),
    "owner_key": ("me", "'me'"),
    "listing_key": ("me", "'me'"),
    "stored_key": ("me", "'me'"),
    "idempotency_key": ("once", "'once'"),
    "delivery_field": ("0", "'0'"),
    "delivery_name": ("errand.0", "'errand.0'"),
    "delivery_lease_key": ("7-0", "'7-0'"),
    "delivery_queue": (DELIVERY, "{kind = 'dicomweb', destination = 'archive'}"),
}
CONSTANTS = ("ACTIVE", "EXPIRY", "UPLOADS", "PURGED", "DICOM_RESULTS", "DELIVERY_QUEUES", "DEAD_DELIVERIES")


def test_python_and_lua_have_the_same_keys(redis: Redis) -> None:
    table = [f"{name} = {name}({argument})" for name, (_, argument) in CALLS.items()]
    table += [f"{name} = {name}" for name in CONSTANTS]
    told = json.loads(redis.eval(lua("keys") + f"return cjson.encode({{{', '.join(table)}}})", 0))
    expected = {name: getattr(keys, name)(argument) for name, (argument, _) in CALLS.items()}
    assert told == expected | {name: getattr(keys, name) for name in CONSTANTS}
    functions = {
        line.split()[2].split("(")[0] for line in lua("keys").splitlines() if line.startswith("local function")
    }
    assert functions == CALLS.keys(), "every key is compared"


@pytest.mark.parametrize("name", NAMES)
def test_every_script_is_understood_by_the_server(redis: Redis, name: str) -> None:
    """Fragments too, each of which is a script that does nothing."""
    assert "--@include" not in lua(name)
    assert redis.script_load(lua(name))
