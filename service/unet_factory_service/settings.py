"""What an operator can set for the gateway alone."""

import ipaddress
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from unet_factory.domain.loopback import is_loopback
from unet_factory.platform.settings import Settings


class GatewaySettings(Settings):
    default_model: str = Field(
        default="",
        description="Model for requests that name none; empty: the one named in the model folder's file `default`.",
    )
    max_queued_jobs: int = Field(default=1000, description="Jobs that may wait; beyond this callers get 429.")
    job_deadline_s: float = Field(
        default=3600.0, description="A job that has not ended this long after it was accepted fails."
    )
    max_wait_s: float = Field(default=300.0, description="Longest wait that a caller may ask for (`Prefer: wait=N`).")
    series_quiet_s: float = Field(
        default=5.0, description="A series received by STOW-RS is complete after this long without a new instance."
    )
    routing: Path | None = Field(
        default=None,
        description="YAML file with the rules for received series; unset: one rule, for the default model.",
    )
    authentication: Literal["off", "required"] | None = Field(
        default=None,
        description="`off` or `required`: whether callers need an API key; unset: required unless the gateway listens "
        "on loopback only.",
    )
    key_requests_per_minute: int = Field(
        default=3000, ge=0, description="Requests per minute for a key without a limit of its own; 0: no limit."
    )
    key_jobs_in_flight: int = Field(
        default=200, ge=0, description="Unfinished jobs for a key without a limit of its own; 0: no limit."
    )
    max_ordered_networks: int = Field(
        default=128, ge=0, description="Networks that may wait to be made; beyond this callers get 429; 0: no limit."
    )
    key_ordered_networks: int = Field(
        default=32, ge=0, description="Networks that may wait to be made for one key; 0: no limit."
    )
    key_cached_networks: int = Field(
        default=50,
        ge=0,
        description="Networks kept for one key that ordered them; beyond this its oldest are dropped; 0: no limit.",
    )
    networks_in_memory_bytes: int = Field(
        default=48 * 2**20,
        ge=0,
        description="Bytes of the networks fetched last that a gateway keeps in its own memory (48 MiB); 0: none.",
    )
    key_stored_bytes: int = Field(
        default=0,
        ge=0,
        description="Bytes of uploads, results and received series that are stored for a key without a limit of its "
        "own; 0: no limit.",
    )

    redis_replicas: int = Field(
        default=0,
        ge=0,
        description="Replicas of the jobs' Redis that must have a job, or a received instance, before it is answered "
        "as accepted (503 if they do not in time); 0: none.",
    )
    allowed_hosts: str = Field(
        default="",
        description="Host names, separated by commas, that a gateway without API keys answers to, besides addresses, "
        "names without a dot and that of `UNET_FACTORY_PUBLIC_URL`.",
    )
    public_url: str = Field(
        default="",
        description="URL under which callers reach the gateway, such as `https://scans.hospital.example/factory`; "
        "empty: taken from the request or a trusted proxy.",
    )
    cors_origins: str = Field(
        default="",
        description="Origins, separated by commas, whose pages may use the gateway from a browser, such as "
        "`https://viewer.hospital.example`; `*`: any, which needs `UNET_FACTORY_AUTHENTICATION=required`.",
    )
    trusted_proxies: str = Field(
        default="127.0.0.1,::1",
        description="Addresses and networks, separated by commas, whose `Forwarded` and `X-Forwarded-*` are trusted.",
    )
    max_connections: int = Field(
        default=1000,
        ge=1,
        description="Open connections; beyond this those that have been idle longest are closed.",
    )
    stalled_after_s: float = Field(
        default=20.0,
        gt=0,
        description="A request whose headers or body stop arriving for this long gets 408; a peer that takes nothing of"
        " its answer for this long is cut off.",
    )

    @field_validator("public_url")
    @classmethod
    def _is_absolute(cls, value: str) -> str:
        parts = urlsplit(value)
        plain = not (parts.query or parts.fragment or parts.username or parts.password)
        if value and not (parts.scheme in ("http", "https") and parts.hostname and plain):
            raise ValueError(f"public_url is {value!r}, must be like https://scans.hospital.example/factory")
        return value.rstrip("/")

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, value: str) -> str:
        for origin in _split(value):
            parts = urlsplit(origin)
            if origin != "*" and not (
                parts.scheme in ("http", "https") and origin == f"{parts.scheme}://{parts.netloc}"
            ):
                raise ValueError(f"cors_origins has {origin!r}, must be like https://viewer.hospital.example, or *")
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _are_networks(cls, value: str) -> str:
        for entry in _split(value):
            ipaddress.ip_network(entry)
        return value

    @field_validator("authentication", mode="before")
    @classmethod
    def _empty_means_unset(cls, value: Any) -> Any:
        return None if value == "" else value

    @model_validator(mode="after")
    def _any_origin_needs_a_key(self) -> Self:
        if "*" in self.cors_origin_list and self.authentication != "required":
            raise ValueError("cors_origins is *, so authentication must be required: any page could read the scans")
        return self

    @property
    def cors_origin_list(self) -> tuple[str, ...]:
        return tuple(_split(self.cors_origins))

    def requires_authentication(self, host: str) -> bool:
        """Of a gateway that listens on ``host``: never left out beyond this machine unless the operator says so."""
        if self.authentication is not None:
            return self.authentication == "required"
        return not is_loopback(host)


def _split(value: str) -> list[str]:
    """The entries of a list with commas."""
    return [entry for entry in map(str.strip, value.split(",")) if entry]
