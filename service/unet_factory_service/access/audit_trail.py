"""Around every request: a line in the audit trail for each access to patient data, and for refusals of the unknown.

Anybody can be refused without end, so of those whose key is not valid a client's first leaves a line at once, and all
others of the next minute leave one together, with their count.
"""

import asyncio
from http import HTTPStatus
from typing import Any, NamedTuple

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from unet_factory.platform.audit import Action, AuditOutcome, record

EVERY_S = 60.0
MOST_CLIENTS = 1000  # at a time; those beyond are counted together

_SERVER_ERROR = HTTPStatus.INTERNAL_SERVER_ERROR


class AuditTrail:
    """Writes when an answer begins, before a byte of it is out. What was done is in the state that the guard left."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._refusals = Refusals(EVERY_S)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            try:
                await self._app(scope, receive, send)
            finally:
                self._refusals.tell_all()
            return

        async def send_recorded(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._record(scope, message["status"])
            await send(message)

        await self._app(scope, receive, send_recorded)

    def _record(self, scope: Scope, status: int) -> None:
        state: dict[str, Any] = scope["state"]
        action, key, client = _action(state, status), state.get("key_id"), (scope.get("client") or (None,))[0]
        if action is None:
            return
        is_unknown = action is Action.AUTHENTICATE or (action is Action.AUTHORISE and key is None)
        if is_unknown and self._refusals.only_counts(Refusal(action, client, key, status)):
            return
        for job_id in state.get("job_ids") or [None]:
            record(
                action,
                _outcome(status),
                key=key,
                job=job_id,
                request=state["request_id"],
                status=status,
                client=client,
            )


class Refusal(NamedTuple):
    """What refusals have in common that leave one line together; ``key`` is the one that was claimed."""

    action: Action
    client: str | None
    key: str | None
    status: int


class Refusals:
    """How many there were since the first of a client's, for a minute. Belongs to one event loop."""

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._counts: dict[Refusal, int] = {}

    def only_counts(self, refusal: Refusal) -> bool:
        """Whether it leaves no line of its own."""
        if refusal not in self._counts and len(self._counts) >= MOST_CLIENTS:
            refusal = refusal._replace(client=None, key=None)
        if refusal in self._counts:
            self._counts[refusal] += 1
            return True
        self._counts[refusal] = 0
        asyncio.get_running_loop().call_later(self._every_s, self._tell, refusal)
        return False

    def tell_all(self) -> None:
        """The server is stopping."""
        for refusal in tuple(self._counts):
            self._tell(refusal)

    def _tell(self, refusal: Refusal) -> None:
        if count := self._counts.pop(refusal, 0):
            record(
                refusal.action,
                AuditOutcome.REFUSED,
                key=refusal.key,
                status=refusal.status,
                client=refusal.client,
                count=count,
            )


def _action(state: dict[str, Any], status: int) -> Action | None:
    if status == HTTPStatus.UNAUTHORIZED:
        return Action.AUTHENTICATE
    rule = state.get("rule")
    known = None if rule is None else rule.action
    return known or (Action.AUTHORISE if status == HTTPStatus.FORBIDDEN else None)


def _outcome(status: int) -> AuditOutcome:
    if status >= _SERVER_ERROR:
        return AuditOutcome.FAILED
    return AuditOutcome.REFUSED if status >= HTTPStatus.BAD_REQUEST else AuditOutcome.OK
