"""Who may do what: one table for all routes, enforced by a dependency of the whole app.

While authentication is required, a route that is not in the table answers nobody. The table also gives the name of an
access in the audit trail; a route without such a name gives no access to patient data.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

from fastapi import FastAPI, Request, Security
from fastapi.routing import APIRoute, iter_route_contexts
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from starlette.concurrency import run_in_threadpool

from unet_factory.platform.api_keys import ApiKey, Scope
from unet_factory.platform.audit import Action
from unet_factory_service.access.callers import ANYBODY, Caller
from unet_factory_service.dependencies import GatewayDependency
from unet_factory_service.documentation import problems
from unet_factory_service.errors import RouteClosed, ScopeMissing, Unauthenticated


@dataclass(frozen=True)
class AccessRule:
    """``scope`` None: any key will do."""

    scope: Scope | None = None
    action: Action | None = None
    public: bool = False


_PUBLIC = AccessRule(public=True)
_STUDY, _SERIES = "/dicomweb/studies/{study}", "/dicomweb/studies/{study}/series/{series}"
_INSTANCE = f"{_SERIES}/instances/{{instance}}"
_SEARCH = AccessRule(Scope.READ, Action.SEARCH)
_READ_RESULT = AccessRule(Scope.READ, Action.READ_RESULT)

# By method (HEAD is GET) and path template. Health and figures are public: probes and scrapers hold no keys, and
# neither tells of a patient, a caller or a job. The page is public, too: it asks for a key itself.
RULES: Mapping[str, AccessRule] = {
    "GET /": _PUBLIC,
    "GET /docs": _PUBLIC,
    "GET /redoc": _PUBLIC,
    "GET /assets/{digest}/{path:path}": _PUBLIC,
    "GET /openapi.json": _PUBLIC,
    "GET /livez": _PUBLIC,
    "GET /readyz": _PUBLIC,
    "GET /v2/health/live": _PUBLIC,
    "GET /v2/health/ready": _PUBLIC,
    "GET /metrics": _PUBLIC,
    "GET /status": AccessRule(),
    "GET /models": AccessRule(),
    "GET /models/{name}": AccessRule(),
    "POST /models/reload": AccessRule(Scope.ADMIN),
    "GET /v2": AccessRule(),
    "GET /v2/models/{name}": AccessRule(),
    "GET /v2/models/{name}/versions/{version}": AccessRule(),
    "GET /v2/models/{name}/ready": AccessRule(),
    "GET /v2/models/{name}/versions/{version}/ready": AccessRule(),
    "POST /v2/models/{name}/infer": AccessRule(Scope.SEGMENT),
    "POST /v2/models/{name}/versions/{version}/infer": AccessRule(Scope.SEGMENT),
    "GET /unet": AccessRule(Scope.WEIGHTS),
    "GET /unet/plain_unet.py": AccessRule(Scope.WEIGHTS),
    "POST /quote": AccessRule(),
    "POST /segmentations": AccessRule(Scope.SEGMENT, Action.CREATE),
    "GET /segmentations": _SEARCH,
    "GET /segmentations/{job_id}": AccessRule(Scope.READ, Action.READ_JOB),
    "GET /segmentations/{job_id}/events": AccessRule(Scope.READ, Action.READ_JOB),
    "GET /segmentations/{job_id}/labelmap": _READ_RESULT,
    "GET /segmentations/{job_id}/coarse-labelmap": _READ_RESULT,
    "GET /segmentations/{job_id}/seg": _READ_RESULT,
    "GET /segmentations/{job_id}/report": _READ_RESULT,
    "GET /segmentations/{job_id}/preview.png": _READ_RESULT,
    "DELETE /segmentations/{job_id}": AccessRule(Scope.SEGMENT, Action.DELETE),
    "POST /dicomweb/studies": AccessRule(Scope.SEGMENT, Action.RECEIVE),
    f"POST {_STUDY}": AccessRule(Scope.SEGMENT, Action.RECEIVE),
    "GET /dicomweb/studies": _SEARCH,
    "GET /dicomweb/series": _SEARCH,
    "GET /dicomweb/instances": _SEARCH,
    f"GET {_STUDY}/series": _SEARCH,
    f"GET {_STUDY}/instances": _SEARCH,
    f"GET {_SERIES}/instances": _SEARCH,
    f"GET {_STUDY}": _READ_RESULT,
    f"GET {_SERIES}": _READ_RESULT,
    f"GET {_INSTANCE}": _READ_RESULT,
    f"GET {_STUDY}/metadata": _READ_RESULT,
    f"GET {_SERIES}/metadata": _READ_RESULT,
    f"GET {_INSTANCE}/metadata": _READ_RESULT,
    f"GET {_INSTANCE}/frames/{{frames}}": _READ_RESULT,
    f"GET {_STUDY}/rendered": AccessRule(Scope.READ),
    f"GET {_SERIES}/rendered": AccessRule(Scope.READ),
    f"GET {_INSTANCE}/rendered": AccessRule(Scope.READ),
    f"GET {_INSTANCE}/frames/{{frames}}/rendered": AccessRule(Scope.READ),
    "GET /deliveries": AccessRule(Scope.ADMIN, Action.LIST_EXPORTS),
    "POST /deliveries/{delivery_id}/replay": AccessRule(Scope.ADMIN, Action.REPLAY_EXPORT),
}

_BEARER = HTTPBearer(auto_error=False, scheme_name="bearer", description="an API key")
_HEADER = APIKeyHeader(name="X-API-Key", auto_error=False, scheme_name="header", description="an API key")


def rule_of(method: str, path: str) -> AccessRule | None:
    """The rule for a route's path template; None if the table has none."""
    return RULES.get(f"{'GET' if method == 'HEAD' else method} {path}")


async def authorise(
    request: Request,
    gateway: GatewayDependency,
    bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_BEARER)],
    header: Annotated[str | None, Security(_HEADER)],
) -> None:
    """Leaves in the request's state who asks, and by which rule.

    Raises:
        Unauthenticated: no key, or one that is not valid.
        ScopeMissing: the key is not for this.
        QuotaExceeded: it was used too often within a minute.
        RouteClosed: the table has no rule for this route.
    """
    state, rule = request.state, rule_of(request.method, request.scope["route"].path)
    state.rule, state.caller = rule, ANYBODY
    if gateway.settings.authentication == "off" or (rule is not None and rule.public):
        return
    token = (bearer.credentials if bearer else header) or ""
    state.caller = Caller()  # nobody, until it is known who
    key = await run_in_threadpool(gateway.keys.named_in, token)
    state.key_id = None if key is None else key.id
    if key is None or not _holds(key, token):
        raise Unauthenticated(presented=bool(token))
    await run_in_threadpool(gateway.quota.take, key)
    _check_scope(key, rule)
    state.caller = replace(
        Caller.holding(key, gateway.settings), is_admitted=lambda: _holds(gateway.keys.named_in(token), token)
    )


def check_plain_routes(app: FastAPI) -> None:
    """Routes that the guard cannot reach (mounted apps, files) must be public by decision.

    Raises:
        RuntimeError: one is not.
    """
    for context in iter_route_contexts(app.routes):
        if isinstance(context.original_route, APIRoute):
            continue
        for method in context.methods or {"GET"}:
            rule = rule_of(method, context.path or "")
            if rule is None or not rule.public:
                raise RuntimeError(f"{method} {context.path} is not in the access table and was not declared public")


def document_access(document: dict[str, Any]) -> None:
    """Write the table into an OpenAPI document: roles as security requirements, and the answers without one."""
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            rule = rule_of(method.upper(), path)
            if rule is None:
                continue
            if rule.public:
                operation["security"] = []
                continue
            roles = [] if rule.scope is None else [rule.scope.value]
            operation["security"] = [{"bearer": roles}, {"header": roles}]
            refused = problems(401, 403, 429) if roles else problems(401, 429)
            operation["responses"] |= {str(status): answer for status, answer in refused.items()}


def _holds(key: ApiKey | None, token: str) -> bool:
    return key is not None and key.accepts(token, time.time())


def _check_scope(key: ApiKey, rule: AccessRule | None) -> None:
    if rule is None:
        raise RouteClosed("this address is closed while API keys are required")
    if rule.scope is not None and not key.allows(rule.scope):
        raise ScopeMissing(rule.scope, key.scopes)
