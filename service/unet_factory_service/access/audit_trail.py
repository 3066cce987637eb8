"""Around every request: a line in the audit trail for each access to patient data and each failed authentication."""

from http import HTTPStatus
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from unet_factory.platform.audit import Action, AuditOutcome, record

_SERVER_ERROR = HTTPStatus.INTERNAL_SERVER_ERROR


class AuditTrail:
    """Writes when an answer begins, before a byte of it is out. What was done is in the state that the guard left."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_recorded(message: Message) -> None:
            if message["type"] == "http.response.start":
                _record(scope, message["status"])
            await send(message)

        await self._app(scope, receive, send_recorded)


def _record(scope: Scope, status: int) -> None:
    state: dict[str, Any] = scope["state"]
    action = _action(state, status)
    if action is None:
        return
    for job_id in state.get("job_ids") or [None]:
        record(
            action,
            _outcome(status),
            key=state.get("key_id"),
            job=job_id,
            request=state["request_id"],
            status=status,
            client=(scope.get("client") or (None,))[0],
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
