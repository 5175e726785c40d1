"""What answers at a path: a handler, who may call it, and whether a service waits for it."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from sandbox.errors import ForbiddenError, OverloadedError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping

    from starlette.types import Receive, Send
    from starlette.types import Scope as ASGIScope

    from sandbox.config.server_settings import Scope
    from sandbox.server.auth.callers import Caller
    from sandbox.server.service import Service

    # Handlers raise SandboxError or HTTPException.
    PublicHandler = Callable[[Request, Service], Awaitable[Response]]
    Handler = Callable[[Request, Caller, Service], Awaitable[Response]]


@dataclass(frozen=True)
class PublicEndpoint:
    """Answers everybody. A service that ends waits for its answers if they are `drained`."""

    handler: PublicHandler
    drained: bool = False

    async def respond(self, request: Request, current: Callable[[], Service], send: Send) -> None:
        with _service(current, drained=self.drained) as service:
            response = await self.handler(request, service)
            await response(request.scope, request.receive, send)


@dataclass(frozen=True)
class AuthenticatedEndpoint:
    """Answers callers that have the scope; without a scope, all authenticated callers.

    With `own`, callers without the scope are let in too: the handler shows them only their own.
    A service that ends waits for its answers if they are `drained`.
    """

    handler: Handler
    scope: Scope | None = None
    own: bool = False
    drained: bool = True

    async def respond(self, request: Request, current: Callable[[], Service], send: Send) -> None:
        """Answer one request; until its last byte is sent, it counts for the caller's limits."""
        client = request.client.host if request.client else ""
        with _service(current, drained=self.drained) as service:
            caller = await service.authenticator.authenticate(request.headers, client=client)
            request.state.caller = caller.id
            if self.scope is not None and not (self.own or caller.may(self.scope)):
                raise ForbiddenError(f"this needs a caller with the scope {self.scope}")
            with service.limiter.admit(caller):
                response = await self.handler(request, caller, service)
                await response(request.scope, request.receive, send)


Endpoint = PublicEndpoint | AuthenticatedEndpoint


class Resource:
    """A path as an ASGI application: an endpoint for each method. HEAD is answered as GET is."""

    def __init__(self, current: Callable[[], Service], endpoints: Mapping[str, Endpoint]) -> None:
        self._current = current
        self._endpoints = dict(endpoints)
        if "GET" in endpoints:
            self._endpoints["HEAD"] = endpoints["GET"]

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        endpoint = self._endpoints.get(scope["method"])
        if endpoint is None:
            response = answer_other_method(scope["method"], self._endpoints)
            await response(scope, receive, send)
        else:
            await endpoint.respond(Request(scope, receive, send), self._current, send)


def answer_other_method(method: str, methods: Iterable[str]) -> Response:
    """The answer at a path that has only other `methods`: to OPTIONS, their names.

    Raises:
        HTTPException: 405, to any other method.
    """
    allowed = {"Allow": ", ".join(sorted({*methods, "OPTIONS"}))}
    if method == "OPTIONS":
        return Response(status_code=HTTPStatus.NO_CONTENT, headers=allowed)
    raise HTTPException(HTTPStatus.METHOD_NOT_ALLOWED, "the path has other methods", allowed)


@contextlib.contextmanager
def _service(current: Callable[[], Service], *, drained: bool) -> Iterator[Service]:
    """The current service. If `drained`, it does not end until the block is left.

    Raises:
        OverloadedError: the service is ending, and no other replaces it.
    """
    if not drained:
        yield current()
        return
    while not (service := current()).in_flight.enter():
        if current() is service:
            raise OverloadedError("the server is stopping", retry_after=1.0)
    try:
        yield service
    finally:
        service.in_flight.leave()
