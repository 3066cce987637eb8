"""What an operator can set, in ``UNET_FACTORY_*`` variables: here what several roles share, the rest in the roles.

Each role's class adds its own to :class:`Settings`. They are built once in the ``main`` of a role and passed in.
Every field has a description: the guide's table is made from them.
"""

import difflib
import os
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SecretsSettingsSource,
    SettingsConfigDict,
)

from unet_factory.domain.volume_limits import VolumeLimits
from unet_factory.platform.redis_url import as_celery_spells_it, checked_url

PREFIX = "UNET_FACTORY_"
SECRETS_DIR = "UNET_FACTORY_SECRETS_DIR"


class Settings(BaseSettings):
    """Times in seconds, sizes in bytes."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    redis_url: str = Field(
        default="redis://127.0.0.1:6379/0",
        description="Redis for jobs and the queue; it must never evict data. With Sentinels: "
        "`redis+sentinel://HOST:PORT,HOST:PORT,HOST:PORT/SERVICE/DATABASE`.",
    )
    cache_url: str = Field(
        default="",
        description="Redis for generated networks; it may evict data. Empty: the one in `UNET_FACTORY_REDIS_URL`.",
    )
    blob_url: str = Field(
        default="file:///tmp/unet-factory",
        description="Where uploads and results are kept: a folder's `file://` URL or `s3://BUCKET/PREFIX`.",
    )
    min_free_bytes: int | None = Field(
        default=None,
        ge=0,
        description="Bytes that uploads leave free on the disk of a local `UNET_FACTORY_BLOB_URL` (507 beyond it), for "
        "the jobs' journal and results; unset: 256 MiB, or a fifth of a disk smaller than 1.25 GiB.",
    )
    models_dir: Path = Field(
        default=Path("models"),
        description="Folder of models (`*.safetensors`), besides those that are installed as packages.",
    )

    max_upload_bytes: int = Field(default=2 * 2**30, description="Largest upload (2 GiB).")
    max_decompressed_bytes: int = Field(
        default=8 * 2**30, description="Largest size of an upload after decompression (8 GiB)."
    )
    max_voxels: int = Field(
        default=2**28, description="Largest number of voxels of a scan, on its own grid and at the working spacing."
    )

    job_attempts: int = Field(default=3, description="How many times a job is started before it fails.")
    lease_s: float = Field(
        default=10.0,
        ge=1,
        description="After this long without a sign of life from its worker or courier, a job is given to another.",
    )
    silence_s: float = Field(
        default=30.0,
        ge=2,
        description="After this long without a sign of life (it hangs or is stopped), a worker's process, or a role "
        "or server under `serve`, is killed and replaced.",
    )
    retention_s: float = Field(
        default=24 * 3600.0, description="How long results, records and received series are kept (a day)."
    )
    upload_retention_s: float | None = Field(
        default=0.0,
        ge=0,
        description="How long an upload is kept after its job has ended; empty: as long as the results.",
    )
    maintenance_interval_s: float = Field(
        default=2.0, description="Pause between two rounds of maintenance, counted over all gateways and workers."
    )
    destinations: Path | None = Field(
        default=None, description="YAML file of the archives and of the hosts that webhooks may call; unset: none."
    )
    delivery_max_age_s: float = Field(
        default=72 * 3600.0, description="How long a failing delivery is tried before it is given up (3 days)."
    )

    audit_log: str = Field(default="-", description="File for the audit trail; `-`: standard output.")
    stop_grace_s: float = Field(
        default=60.0, description="How long a worker or courier that is told to stop may take to finish its work."
    )
    metrics_port: int = Field(
        default=0, description="Port for a worker's or courier's own metrics; 0: none, the gateway shows them."
    )
    metrics_host: str = Field(default="127.0.0.1", description="Address for a worker's or courier's own metrics.")
    log_format: Literal["plain", "json"] = Field(default="plain", description="Format of log lines: `plain` or `json`.")
    traces_url: str = Field(
        default="",
        description="OpenTelemetry collector to send traces to by OTLP over HTTP, such as "
        "`http://collector:4318/v1/traces`; empty: none. Needs the extra `tracing`.",
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 (its folder is fixed when a class is made)
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """What is passed in, then variables, then the files of the folder that ``SECRETS_DIR`` names."""
        secrets = SecretsSettingsSource(settings_cls, secrets_dir=os.environ.get(SECRETS_DIR) or None)
        return init_settings, env_settings, dotenv_settings, secrets

    @field_validator("upload_retention_s", "min_free_bytes", mode="before")
    @classmethod
    def _empty_is_unset(cls, value: Any) -> Any:
        return None if value == "" else value

    @field_validator("redis_url", "cache_url")
    @classmethod
    def _names_sentinels_well(cls, value: str) -> str:
        return checked_url(value)

    @property
    def broker_url(self) -> str:
        """``redis_url`` as Celery spells it."""
        return as_celery_spells_it(self.redis_url)[0]

    @property
    def broker_options(self) -> dict[str, Any]:
        """What Celery's transport needs to know besides."""
        return as_celery_spells_it(self.redis_url)[1]

    @property
    def weights_url(self) -> str:
        return self.cache_url or self.redis_url

    @property
    def volume_limits(self) -> VolumeLimits:
        return VolumeLimits(
            compressed_bytes=self.max_upload_bytes,
            decompressed_bytes=self.max_decompressed_bytes,
            voxels=self.max_voxels,
        )


def variable(field: str) -> str:
    """The environment variable that sets a field."""
    return PREFIX + field.upper()


def unknown_variables(environment: Iterable[str], known: Collection[str]) -> dict[str, str | None]:
    """Our variables that nothing reads, each with the known one that it most resembles, if any does."""
    ends = [name.removeprefix(PREFIX) for name in known]  # the prefix would make any two alike
    unknown: dict[str, str | None] = {}
    for name in sorted(environment):
        if name.upper().startswith(PREFIX) and name.upper() not in known:
            similar = difflib.get_close_matches(name.upper().removeprefix(PREFIX), ends, n=1)
            unknown[name] = PREFIX + similar[0] if similar else None
    return unknown
