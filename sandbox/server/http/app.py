"""The ASGI application: the table of operations, and for other paths the routes of functions."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.routing import Route

from sandbox.call import Call
from sandbox.errors import ForbiddenError, InternalError, SandboxError
from sandbox.server.events.routes import Match
from sandbox.server.http import functions
from sandbox.server.http.access_log import AccessLog
from sandbox.server.http.body import read_body
from sandbox.server.http.endpoints import AuthenticatedEndpoint, Resource, answer_other_method
from sandbox.server.http.operations import OPERATIONS
from sandbox.server.http.problems import problem_from_error, problem_from_http, subject_of
from sandbox.server.http.request_input import body_as_input, raw_path, request_document

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.responses import Response
    from starlette.types import ASGIApp, Receive, Send
    from starlette.types import Scope as ASGIScope

    from sandbox.server.auth.callers import Caller
    from sandbox.server.http.endpoints import Endpoint
    from sandbox.server.http.health import Readiness
    from sandbox.server.service import Service

log = logging.getLogger(__name__)


def create_app(current: Callable[[], Service], readiness: Readiness) -> ASGIApp:
    """The application. `current` gives the service, which a reload replaces."""
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

    async def respond_by_route(scope: ASGIScope, receive: Receive, send: Send) -> None:
        await _BY_ROUTE.respond(Request(scope, receive, send), current, send)

    # Starlette's own routes are fixed; those of functions change while the server runs.
    app.router.default = respond_by_route
    # A path with a slash at the end is another path, and is not redirected.
    app.router.redirect_slashes = False
    return AccessLog(app, current=current)


async def _refuse(request: Request, error: Exception) -> Response:
    """Answer with a problem document."""
    subject = subject_of(request)
    if isinstance(error, HTTPException):
        return problem_from_http(error, subject)
    if isinstance(error, SandboxError):
        if error.http_status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            trace = error if isinstance(error, InternalError) else None
            log.error("the request %s failed: %s", subject.request_id, error, exc_info=trace)
        return problem_from_error(error, subject)
    # `AccessLog` logs it.
    return problem_from_error(InternalError("a defect of the server"), subject)


async def _invoke_by_route(request: Request, caller: Caller, service: Service) -> Response:
    """Invoke the function whose route matches the request.

    Raises:
        HTTPException: 404 if no route matches, 405 if only routes of other methods do.
    """
    match = service.registrar.match(request.method, raw_path(request))
    if not isinstance(match, Match):
        if match:
            return answer_other_method(request.method, match)
        raise HTTPException(HTTPStatus.NOT_FOUND, "there is nothing at this path")
    if not caller.may_invoke(match.function):
        raise ForbiddenError("this caller may not invoke that function")
    settings = service.settings.server
    most = service.limiter.body(caller)
    body = await read_body(request, most=most, patience=settings.patience)
    document = body_as_input(body, request.headers.get("content-type", ""))
    document["_request"] = request_document(request, match.params)
    call = Call(function=match.function, input=document, trigger="route")
    call = functions.with_request_options(call, request, caller)
    return await functions.respond_as_asked(request, service, call)


_BY_ROUTE = AuthenticatedEndpoint(_invoke_by_route)
