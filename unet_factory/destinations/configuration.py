"""Which other systems the factory talks to, from one YAML file: archives (PACS) by name, and where webhooks may go.

Secrets never stand in it: it names the file or the environment variable that holds them.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Self

import yaml
from pydantic import AfterValidator, Field, ValidationError, model_validator

from unet_factory.destinations.callback_rules import CallbackRules, Networks, host_pattern, network, scheme
from unet_factory.domain.errors import DestinationsInvalid, DestinationUnknown
from unet_factory.domain.frozen import Frozen, faults_of
from unet_factory.domain.jobs import DeliveryKind

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


class SecretReference(Frozen):
    """Where a secret is read from, when it is needed: a file (surrounding blanks ignored) or a variable."""

    file: Path | None = None
    env: str | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.file is None) == (self.env is None):
            raise ValueError("name either a file or an environment variable (env)")
        return self

    def read(self, environment: Mapping[str, str] | None = None) -> str:
        """
        Raises:
            DestinationsInvalid: there is no such file or variable, or it is empty.
        """
        environment = os.environ if environment is None else environment
        try:
            text = environment.get(self.env, "") if self.env else Path(str(self.file)).read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise DestinationsInvalid(f"the secret file {self.file} cannot be read") from error
        if not text:
            raise DestinationsInvalid(f"the secret in {self.env or self.file} is missing or empty")
        return text


class BasicAuth(Frozen):
    username: str
    password: SecretReference


class DicomWebAuth(Frozen):
    basic: BasicAuth | None = None
    bearer: SecretReference | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.basic is None) == (self.bearer is None):
            raise ValueError("name either basic or bearer")
        return self


class DicomWeb(Frozen):
    """A DICOMweb origin server (DICOM PS3.18). Prefixes are paths below ``url`` where a service has one of its own."""

    url: Annotated[str, Field(pattern=r"^https?://[^\s@?#]+$")]
    qido_prefix: str | None = None
    wado_prefix: str | None = None
    stow_prefix: str | None = None
    auth: DicomWebAuth | None = None
    ca_file: Path | None = Field(default=None, description="PEM file; the system's certificate authorities when absent")
    timeout_s: float = Field(default=60.0, gt=0, description="for each step: a connection, a read, an answer")
    deadline_s: float = Field(default=1800.0, gt=0, description="for a whole exchange, however slowly it proceeds")


class DimseTls(Frozen):
    """For DICOM over TLS (PS3.15 annex B); certificate and key where the archive wants to know who calls."""

    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None


AeTitle = Annotated[str, Field(min_length=1, max_length=16, pattern=r"^[ -\[\]-~]*[!-\[\]-~][ -\[\]-~]*$")]


class Dimse(Frozen):
    """A C-STORE SCP (DICOM PS3.4 annex B)."""

    host: Annotated[str, Field(min_length=1)]
    port: Annotated[int, Field(ge=1, le=65535)] = 104
    called_aet: AeTitle
    calling_aet: AeTitle = "UNETFACTORY"
    tls: DimseTls | None = None
    timeout_s: float = Field(default=60.0, gt=0, description="for each step: a connection, a read, an answer")
    deadline_s: float = Field(default=1800.0, gt=0, description="for a whole exchange, however slowly it proceeds")


class Pacs(Frozen):
    """An archive: fetched from by DICOMweb, sent to by ``push`` (DICOMweb where there is both)."""

    dicomweb: DicomWeb | None = None
    dimse: Dimse | None = None
    push: Annotated[DeliveryKind | None, Field(description="dicomweb or dimse")] = None
    results_to: tuple[str, ...] | None = Field(
        default=None,
        description="where results of its series go unless the caller says; the archive itself when absent",
    )

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        if self.dicomweb is None and self.dimse is None:
            raise ValueError("an archive needs dicomweb, dimse or both")
        if self.push not in (None, DeliveryKind.DICOMWEB, DeliveryKind.DIMSE):
            raise ValueError("push must be dicomweb or dimse")
        if self.push is not None and getattr(self, self.push) is None:
            raise ValueError(f"push is {self.push}, but {self.push} is not configured")
        return self

    @property
    def push_kind(self) -> DeliveryKind:
        return self.push or (DeliveryKind.DICOMWEB if self.dicomweb else DeliveryKind.DIMSE)


class Webhooks(Frozen):
    """``allow``: hosts (``hooks.example.org``, ``*.example.org``) and networks or addresses (``10.1.0.0/16``).

    A host must be listed, and its address must be public or lie in a listed network. The first secret signs; further
    ones sign too, so that receivers can be moved from one to the next.
    """

    allow: tuple[str, ...] = ()
    schemes: tuple[Annotated[str, AfterValidator(scheme)], ...] = ("https",)
    secrets: tuple[SecretReference, ...] = ()
    timeout_s: float = Field(default=10.0, gt=0)

    @model_validator(mode="after")
    def _usable(self) -> Self:
        self.rules  # noqa: B018 (raises for an entry that is neither)
        if self.allow and not self.secrets:
            raise ValueError("webhooks are signed: name at least one secret (file or env)")
        return self

    @property
    def rules(self) -> CallbackRules:
        networks: Networks = tuple(found for entry in self.allow if (found := network(entry)) is not None)
        hosts = tuple(host_pattern(entry) for entry in self.allow if network(entry) is None)
        return CallbackRules(hosts, networks, self.schemes)


class Destinations(Frozen):
    pacs: dict[str, Pacs] = Field(default_factory=dict)
    webhooks: Webhooks = Webhooks()

    @model_validator(mode="after")
    def _names(self) -> Self:
        for name, pacs in self.pacs.items():
            if not _NAME.fullmatch(name):
                raise ValueError(f"{name!r} is not a valid name: use at most 64 lower-case letters, digits, - and _")
            for target in pacs.results_to or ():
                if target not in self.pacs:
                    raise ValueError(f"pacs.{name}.results_to names {target!r}, which is not configured")
        return self

    @classmethod
    def load(cls, path: Path | None) -> Self:
        """What the file says; nothing is configured without one.

        Raises:
            DestinationsInvalid: it cannot be read, or says something wrong; the message names the place.
        """
        if path is None:
            return cls()
        try:
            return cls.model_validate(yaml.safe_load(path.read_text()) or {})
        except ValidationError as error:
            raise DestinationsInvalid(f"{path}: {faults_of(error)}") from None
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise DestinationsInvalid(f"{path}: {' '.join(str(error).split())}") from error

    def archive(self, name: str) -> Pacs:
        """
        Raises:
            DestinationUnknown: it is not configured.
        """
        if name not in self.pacs:
            configured = sorted(self.pacs)
            raise DestinationUnknown(
                f"no archive {name[:100]!r} is configured; there {_is_or_are(configured)}", configured=configured
            )
        return self.pacs[name]

    def source(self, name: str) -> DicomWeb:
        """The archive as one to fetch from.

        Raises:
            DestinationUnknown: it is not configured, or has no DICOMweb.
        """
        dicomweb = self.archive(name).dicomweb
        if dicomweb is None:
            able = sorted(other for other, pacs in self.pacs.items() if pacs.dicomweb)
            raise DestinationUnknown(
                f"the archive {name!r} has no DICOMweb to fetch series from; with DICOMweb there {_is_or_are(able)}",
                configured=able,
            )
        return dicomweb

    def results_of(self, name: str) -> tuple[str, ...]:
        """Where results of an archive's series go when the caller does not say."""
        results_to = self.archive(name).results_to
        return (name,) if results_to is None else results_to


def _is_or_are(names: list[str]) -> str:
    return f"are {', '.join(names)}" if len(names) > 1 else f"is {names[0] if names else 'none'}"
