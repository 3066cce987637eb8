"""Who asks: what a route knows of the holder of an API key."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Annotated, Self

from fastapi import Depends, Request

from unet_factory.domain.errors import ApiKeyUnknown
from unet_factory.jobs.store import JobStore
from unet_factory.platform.api_keys import ApiKey, KeyStore, Scope
from unet_factory_service.settings import GatewaySettings


@dataclass(frozen=True)
class Caller:
    """``owner`` is whose jobs are theirs (empty: nobody's in particular), ``jobs_in_flight`` how many.

    ``stored_bytes`` is how much may be stored for them. 0 of either: any number. ``is_admitted`` looks again whether
    their key still holds, for answers that take long.
    """

    key_id: str | None = None
    owner: str = ""
    sees_all: bool = False
    jobs_in_flight: int = 0
    stored_bytes: int = 0
    is_admitted: Callable[[], bool] = field(default=lambda: True, compare=False)

    @classmethod
    def holding(cls, key: ApiKey, settings: GatewaySettings) -> Self:
        own, own_bytes = key.jobs_in_flight, key.stored_bytes
        return cls(
            key_id=key.id,
            owner=key.owner,
            sees_all=key.allows(Scope.ADMIN),
            jobs_in_flight=settings.key_jobs_in_flight if own is None else own,
            stored_bytes=settings.key_stored_bytes if own_bytes is None else own_bytes,
        )

    def sees(self, jobs: JobStore, job_id: str) -> bool:
        """Whether the job is, or was, theirs to know of.

        Raises:
            JobUnknown: there never was such a job.
        """
        return self.sees_all or jobs.owner(job_id) == self.owner


ANYBODY = Caller(sees_all=True)  # where no API keys are required


def on_behalf_of(owner: str, keys: KeyStore, settings: GatewaySettings) -> Caller:
    """For work that goes on after the owner's request was answered: what it needs was accepted, so it may be stored."""
    try:
        return replace(Caller.holding(keys.get(owner), settings), stored_bytes=0) if owner else ANYBODY
    except ApiKeyUnknown:
        return Caller(owner=owner, jobs_in_flight=settings.key_jobs_in_flight)


async def _caller(request: Request) -> Caller:  # async, or FastAPI would call it in a thread
    """As the app's guard found them (see ``access``)."""
    caller = request.state.caller
    assert isinstance(caller, Caller)
    return caller


CallerDependency = Annotated[Caller, Depends(_caller)]
