"""Everything an operator can set, one frozen value per process, read from ``UNET_FACTORY_*`` and passed in."""

import re
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from unet_factory.domain.loopback import is_loopback
from unet_factory.domain.volume_limits import VolumeLimits


class Settings(BaseSettings):
    """Built once in the ``main`` of a role. Times in seconds, sizes in bytes."""

    model_config = SettingsConfigDict(env_prefix="UNET_FACTORY_", frozen=True, extra="ignore")

    redis_url: str = Field(default="redis://127.0.0.1:6379/0", description="jobs and queue; must not evict")
    cache_url: str = Field(default="", description="generated weights; may evict; empty: the same as redis_url")
    blob_url: str = Field(default="file:///tmp/unet-factory", description="uploads and results, an fsspec URL")
    models_dir: Path = Path("models")
    default_model: str = Field(default="", description="empty: what the folder's file `default` names")

    max_upload_bytes: int = 2 * 2**30
    max_decompressed_bytes: int = 8 * 2**30
    max_voxels: int = Field(default=2**28, description="of a scan, on its own grid and at the working spacing")
    max_queued_jobs: int = 1000

    series_quiet_s: float = Field(
        default=5.0, description="a received series is complete when nothing comes for so long"
    )
    routing: Path | None = Field(
        default=None, description="rules for received series, a YAML file; none: a default rule"
    )

    authentication: Literal["off", "required"] | None = Field(
        default=None, description="by API keys; unset: off for a gateway that listens on loopback only, else required"
    )
    key_requests_per_minute: int = Field(default=3000, ge=0, description="of a key without its own limit; 0: any")
    key_jobs_in_flight: int = Field(default=200, ge=0, description="of a key without its own limit; 0: any")
    audit_log: str = Field(default="-", description="file for the audit trail; -: standard output")

    job_deadline_s: float = 3600.0
    job_attempts: int = 3
    lease_s: float = 10.0
    retention_s: float = 24 * 3600.0
    upload_retention_s: float | None = Field(
        default=0.0, ge=0, description="uploads go so long after their job's end; empty: with the results"
    )
    max_wait_s: float = 300.0
    maintenance_interval_s: float = 2.0

    destinations: Path | None = Field(default=None, description="YAML: archives, and where webhooks may go")
    delivery_attempts: int = 500
    delivery_max_age_s: float = Field(default=72 * 3600.0, description="a delivery that failed so long is dead")
    fetch_max_age_s: float = Field(default=3600.0, description="a fetch that failed so long fails its job")
    delivery_backoff_s: float = Field(default=5.0, description="after the first failure; doubles with each")
    delivery_backoff_max_s: float = 600.0
    deliveries_per_destination: int = Field(default=2, description="at a time and courier")

    device: str = Field(default="auto", description="auto, cpu, cuda or cuda:N")
    threads: int = Field(default=0, description="CPU threads per worker; 0: all")
    device_cache_networks: int = Field(default=16, description="networks kept ready on the device")
    precision: Literal["float32", "bfloat16"] = Field(default="float32", description="of the networks' arithmetic")
    stop_grace_s: float = Field(default=60.0, description="how long a worker told to stop may finish its job")
    metrics_port: int = Field(
        default=0, description="the worker's own exporter; 0: none (the gateway shows its figures)"
    )
    metrics_host: str = Field(default="127.0.0.1", description="where the worker's own exporter listens")
    log_format: Literal["plain", "json"] = "plain"

    @model_validator(mode="after")
    def _lease_outlives_renewals(self) -> Self:
        if self.lease_s < 1:
            raise ValueError(f"lease_s is {self.lease_s}, must be at least 1 second")
        return self

    @field_validator("authentication", "upload_retention_s", mode="before")
    @classmethod
    def _empty_is_unset(cls, value: Any) -> Any:
        return None if value == "" else value

    def requires_authentication(self, host: str) -> bool:
        """Of a gateway that listens on ``host``: never left out beyond this machine unless the operator says so."""
        if self.authentication is not None:
            return self.authentication == "required"
        return not is_loopback(host)

    @property
    def broker_url(self) -> str:
        """``redis_url`` as Celery spells it."""
        return re.sub(r"^unix://", "redis+socket://", self.redis_url)

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
