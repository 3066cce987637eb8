"""The settings of all roles together: read for one role, checked for slips, and described in the operator's guide."""

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from unet_factory.platform.logs import configure_logging
from unet_factory.platform.settings import SECRETS_DIR, Settings, unknown_variables, variable
from unet_factory_cli.failures import MISUSED, CommandFailed
from unet_factory_cli.own_key import API_KEY_FILE
from unet_factory_courier.settings import CourierSettings
from unet_factory_service.settings import GatewaySettings
from unet_factory_worker.settings import WorkerSettings

# The listener has options of its command instead of settings of its own.
ROLES: dict[str, type[Settings]] = {
    "all roles": Settings,
    "gateway": GatewaySettings,
    "worker": WorkerSettings,
    "courier": CourierSettings,
}
# Read by commands, configurations and tests rather than by roles.
ELSEWHERE = {
    "UNET_FACTORY_URL": "Where the commands and the listener find the gateway.",
    "UNET_FACTORY_API_KEY": "The API key that the commands and the listener send.",
    API_KEY_FILE: "A file that holds this key, such as a mounted secret.",
    SECRETS_DIR: "A folder, such as a mounted secret, with a file for each setting that no variable should hold, named "
    "like the variable: `UNET_FACTORY_REDIS_URL` where the URL has a password. A variable takes precedence.",
    "UNET_FACTORY_DATA": "Folder of the data sets that training configurations and tests use.",
}

log = logging.getLogger(__name__)

Role = TypeVar("Role", bound=Settings)


def read_settings(role: type[Role]) -> Role:
    """What the environment says.

    Raises:
        CommandFailed: a variable has a value that is not allowed.
    """
    secrets = os.environ.get(SECRETS_DIR)
    if secrets and not Path(secrets).is_dir():
        raise CommandFailed(f"{SECRETS_DIR} is {secrets!r}, which is not a folder", MISUSED)
    try:
        return role()
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        name = variable(str(fault["loc"][0]))
        raise CommandFailed(f"{name} is {fault['input']!r}: {fault['msg']}", MISUSED) from error


def operators_redis() -> str | None:
    """The job store that the operator names; None: none, so that ``serve`` brings its own.

    Raises:
        CommandFailed: a variable has a value that is not allowed.
    """
    settings = read_settings(Settings)
    return settings.redis_url if "redis_url" in settings.model_fields_set else None


def start_with_settings(role: type[Role]) -> Role:
    """:func:`read_settings` at the start of a role: variables that nothing reads are named in its log, once.

    Raises:
        CommandFailed: as above.
    """
    settings = read_settings(role)
    configure_logging(settings.log_format)
    for name, similar in unknown_variables(os.environ, known_variables()).items():
        hint = f"did you mean {similar}?" if similar else "`unet-factory settings` lists them all"
        log.warning("%s is not a setting and has no effect; %s", name, hint)
    return settings


def known_variables() -> set[str]:
    """All that any role or command reads."""
    return {variable(name) for role in ROLES.values() for name in role.model_fields} | set(ELSEWHERE)


def settings_table() -> str:
    """All settings as Markdown, a table for each role; the operator's guide holds a copy."""
    parts = []
    for role, settings in ROLES.items():
        parts += [f"**{role.capitalize()}**", "", "| variable | default | meaning |", "|---|---|---|"]
        parts += [f"| `{variable(name)}` | {_default(field)} | {field.description} |" for name, field in _own(settings)]
        parts.append("")
    parts += ["**Commands**", "", "| variable | meaning |", "|---|---|"]
    parts += [f"| `{name}` | {meaning} |" for name, meaning in ELSEWHERE.items()]
    return "\n".join(parts) + "\n"


def settings_json() -> str:
    """All settings as a list of JSON objects."""
    settings = [
        {"variable": variable(name), "role": role, "default": field.get_default(), "meaning": field.description}
        for role, fields in ROLES.items()
        for name, field in _own(fields)
    ]
    of_commands = [{"variable": name, "role": "commands", "meaning": meaning} for name, meaning in ELSEWHERE.items()]
    return json.dumps([*settings, *of_commands], indent=2, default=str) + "\n"


def _own(role: type[Settings]) -> Iterator[tuple[str, FieldInfo]]:
    """The fields that a class adds to the shared ones."""
    shared = set() if role is Settings else set(Settings.model_fields)
    return ((name, field) for name, field in role.model_fields.items() if name not in shared)


def _default(field: FieldInfo) -> str:
    if field.default is None:
        return "unset"
    if field.default == "":
        return "empty"
    return f"`{field.default:g}`" if isinstance(field.default, float) else f"`{field.default}`"
