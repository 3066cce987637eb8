"""The gateway: thin routes over the core, without torch."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import uvicorn
from fastapi import Depends, FastAPI

import unet_factory
from unet_factory.domain.loopback import is_loopback
from unet_factory.platform.audit import open_trail
from unet_factory.platform.logs import OncePerMinute, configure_logging
from unet_factory.platform.signs_of_life import give_signs
from unet_factory.platform.tracing import start_tracing
from unet_factory_service.access.audit_trail import AuditTrail
from unet_factory_service.access.cross_origin import SecurityHeaders, allow_origins
from unet_factory_service.access.guard import authorise, check_plain_routes, document_access
from unet_factory_service.access.origins import HostsAndOrigins
from unet_factory_service.connections import BACKLOG, BoundedProtocol, ConnectionLimits, raise_descriptor_limit
from unet_factory_service.dependencies import GatewayContext
from unet_factory_service.dicomweb import retrieve_routes, search_routes, store_routes
from unet_factory_service.dicomweb.reception import receiving
from unet_factory_service.documentation import ProblemDocument
from unet_factory_service.middleware import HeadAsGet, RequestDuration, RequestId, UnexpectedErrors
from unet_factory_service.networks import inference_protocol, model_routes
from unet_factory_service.networks import routes as unet_routes
from unet_factory_service.operations import delivery_routes, health_routes, metrics_routes, status_routes
from unet_factory_service.page import routes as page_routes
from unet_factory_service.problems import install_problem_handlers
from unet_factory_service.public_url import OriginForm, TrustedProxies
from unet_factory_service.quotes import routes as quote_routes
from unet_factory_service.request_bodies import RequestBodies
from unet_factory_service.segmentations import dicom_result_routes, listing_routes
from unet_factory_service.segmentations import routes as segmentation_routes
from unet_factory_service.settings import GatewaySettings

log = logging.getLogger(__name__)

_STOPS_WITHIN_S = 20
_LOGS_THAT_PEERS_FILL = (
    *("asyncio", "uvicorn.error", "python_multipart.multipart"),
    *("unet_factory_service.connections", "unet_factory_service.problems"),
)
_ROUTERS = (
    *(unet_routes.router, segmentation_routes.router, listing_routes.router),
    *(dicom_result_routes.router,),
    *(delivery_routes.router, model_routes.router, inference_protocol.router, quote_routes.router),
    *(store_routes.router, search_routes.router, retrieve_routes.router),
    *(health_routes.router, metrics_routes.router, status_routes.router),
    page_routes.router,
)


def create_app(settings: GatewaySettings) -> FastAPI:
    """The app over the models and stores that ``settings`` name; keys are required unless authentication is "off".

    Raises:
        CheckpointInvalid: a file in the model folder is no checkpoint.
        ModelUnknown: the default model is not there.
        DestinationsInvalid: the file of archives and webhooks cannot be used.
        RoutingInvalid: the rules for received series cannot be used.
    """
    gateway = GatewayContext.build(settings)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with gateway.running(), receiving(gateway):
            signs = asyncio.create_task(give_signs())
            yield
            signs.cancel()

    app = _Gateway(
        title="U-Net factory",
        version=unet_factory.__version__,
        summary="Segmentation networks made to measure for a scan's voxel spacing",
        lifespan=lifespan,
        dependencies=[Depends(authorise)],
        docs_url=None,  # these pages load scripts from elsewhere
        redoc_url=None,
        servers=[{"url": settings.public_url}] if settings.public_url else None,
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},  # it would quote errors
        redirect_slashes=False,  # a redirect would name whatever host the asker claims
    )
    app.state.gateway = gateway
    for router in _ROUTERS:
        app.include_router(router)
    check_plain_routes(app)
    install_problem_handlers(app)
    app.add_middleware(HostsAndOrigins, settings=settings)
    for middleware in (UnexpectedErrors, AuditTrail, RequestDuration, RequestId):  # the last one is the outermost
        app.add_middleware(middleware)
    app.add_middleware(HeadAsGet)
    app.add_middleware(TrustedProxies, trusted=settings.trusted_proxies)
    app.add_middleware(OriginForm)
    app.add_middleware(RequestBodies, patience_s=settings.stalled_after_s)
    allow_origins(app, settings.cors_origin_list)
    app.add_middleware(SecurityHeaders)
    return app


def run(settings: GatewaySettings, host: str = "127.0.0.1", port: int = 8000) -> None:
    """Serve until SIGTERM or SIGINT; streams and waiting requests are answered before the end."""
    configure_logging(settings.log_format)
    for name in _LOGS_THAT_PEERS_FILL:
        logging.getLogger(name).addFilter(OncePerMinute())
    raise_descriptor_limit()
    open_trail(settings.audit_log)
    start_tracing(settings.traces_url, "gateway")
    GatewayServer(create_app(with_access_decided(settings, host)), host=host, port=port).run()


def with_access_decided(settings: GatewaySettings, host: str) -> GatewaySettings:
    """The settings with authentication either off or required, as befits where the gateway listens."""
    required = settings.requires_authentication(host)
    if not required and not is_loopback(host):
        log.warning("LISTENING ON %s WITHOUT AUTHENTICATION: whoever reaches it reads and deletes patient data", host)
    return settings.model_copy(update={"authentication": "required" if required else "off"})


class GatewayServer(uvicorn.Server):
    """Tells the app's waiters that the server stops, before it waits for their answers."""

    def __init__(self, app: FastAPI, **options: Any) -> None:
        protocol: Any = partial(BoundedProtocol, limits=ConnectionLimits.of(app.state.gateway.settings))
        super().__init__(
            uvicorn.Config(
                app,
                http=protocol,
                ws="none",
                backlog=BACKLOG,
                timeout_graceful_shutdown=_STOPS_WITHIN_S,
                access_log=False,
                server_header=False,
                proxy_headers=False,  # TrustedProxies reads all of them
                log_config=None,  # ours is set up already
                **options,
            )
        )
        self.app = app

    async def shutdown(self, sockets: list[Any] | None = None) -> None:
        self.app.state.gateway.wakeups.close()
        await super().shutdown(sockets)


class _Gateway(FastAPI):
    def openapi(self) -> dict[str, Any]:
        """FastAPI's, plus the schema that all problem answers refer to, less its own 422, which never occurs."""
        if self.openapi_schema is None:
            document = super().openapi()
            schemas = document.setdefault("components", {}).setdefault("schemas", {})
            schemas["ProblemDocument"] = ProblemDocument.model_json_schema()
            _drop_default_validation_answers(document)
            document_access(document)
        assert self.openapi_schema is not None
        return self.openapi_schema


def _drop_default_validation_answers(document: dict[str, Any]) -> None:
    for operations in document["paths"].values():
        for operation in operations.values():
            answer = operation.get("responses", {}).get("422", {})
            if "application/json" in answer.get("content", {}):
                del operation["responses"]["422"]
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)
