"""The ASGI application: the table of operations, and behind it the routes of manifests."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route

from sandbox.call import Call
from sandbox.errors import ForbiddenError, InternalError, SandboxError
from sandbox.server.events.routes import Match
from sandbox.server.http import functions
from sandbox.server.http.access_log import AccessLog
from sandbox.server.http.body import read_body
from sandbox.server.http.endpoints import (
    Fallback,
    GuardedEndpoint,
    Resource,
    other_method,
)
from sandbox.server.http.operations import OPERATIONS
from sandbox.server.http.problems import about, problem_from_error, problem_from_http
from sandbox.server.http.request_event import body_as_input, request_document, sent_path

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp

    from sandbox.server.auth.callers import Caller
    from sandbox.server.http.endpoints import Endpoint
    from sandbox.server.http.health import Readiness
    from sandbox.server.service import Service

log = logging.getLogger(__name__)


def create_app(current: Callable[[], Service], readiness: Readiness) -> ASGIApp:
    """The application over the service that `current` gives: another one after a reload."""

    endpoints: dict[str, dict[str, Endpoint]] = {}
    for operation in OPERATIONS:
        endpoints.setdefault(operation.path, {})[operation.method] = operation.endpoint
    middleware = []
    origins = current().settings.server.cors
    if origins:
        middleware.append(
            Middleware(
                CORSMiddleware,
                allow_origins=list(origins),
                allow_methods=["GET", "POST", "DELETE"],
                allow_headers=["authorization", "content-type", "idempotency-key", "x-api-key"],
                expose_headers=["x-request-id", "location", "retry-after"],
            )
        )
    app = Starlette(
        routes=[
            Route(path, Resource(current, endpoints[path]))
            # `/api/functions/stats` comes before `/api/functions/{name}`.
            for path in sorted(endpoints, key=lambda path: "{" in path)
        ],
        middleware=middleware,
        exception_handlers={SandboxError: _refuse, HTTPException: _refuse, Exception: _refuse},
    )
    app.state.readiness = readiness
    # The routes of manifests, which change while the server runs.
    app.router.default = Fallback(current, GuardedEndpoint(_routed))
    # Trailing slashes are other paths, and are not redirected.
    app.router.redirect_slashes = False
    return AccessLog(app, current=current)


async def _refuse(request: Request, error: Exception) -> Response:
    """What stands against a request, as a problem document."""
    subject = about(request)
    if isinstance(error, HTTPException):
        return problem_from_http(error, subject)
    if isinstance(error, SandboxError):
        if error.http_status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            trace = error if isinstance(error, InternalError) else None
            log.error("the request %s failed: %s", subject.request_id, error, exc_info=trace)
        return problem_from_error(error, subject)
    # Logged by `AccessLog`, which gets it too.
    return problem_from_error(InternalError("a defect of the server"), subject)


async def _routed(request: Request, caller: Caller, service: Service) -> Response:
    """A route of a manifest's; 404 where there is none."""
    match = service.registrar.match(request.method, sent_path(request))
    if not isinstance(match, Match):
        if match:
            return other_method(request.method, match)
        raise HTTPException(HTTPStatus.NOT_FOUND, "there is nothing at this path")
    if not caller.may_invoke(match.function):
        raise ForbiddenError("this caller may not invoke that function")
    settings = service.settings.server
    most = service.limiter.body(caller)
    body = await read_body(request, most=most, patience=settings.patience)
    document = body_as_input(body, request.headers.get("content-type", ""))
    document["_request"] = request_document(request, match.params)
    call = Call(function=match.function, input=document, trigger="route")
    return await functions.answer(request, service, functions.completed(call, request, caller))
