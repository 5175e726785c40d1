"""What is at a path: who may ask, and who answers."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from sandbox.errors import ForbiddenError, OverloadedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from starlette.types import Receive, Send
    from starlette.types import Scope as ASGIScope

    from sandbox.config.server_settings import Scope
    from sandbox.server.auth.callers import Caller
    from sandbox.server.service import Service


class Handler(Protocol):
    """Answers a request of a caller that was let in."""

    async def __call__(self, request: Request, caller: Caller, service: Service) -> Response:
        """The answer. Raises SandboxError or HTTPException."""


class OpenHandler(Protocol):
    """Answers a request of anybody."""

    async def __call__(self, request: Request, service: Service) -> Response:
        """The answer. Raises SandboxError or HTTPException."""


def other_method(method: str, methods: Iterable[str]) -> Response:
    """The answer where a path has other methods.

    Raises:
        HTTPException: 405, unless those are what is asked for.
    """
    allowed = {"Allow": ", ".join(sorted({*methods, "OPTIONS"}))}
    if method == "OPTIONS":
        return Response(status_code=HTTPStatus.NO_CONTENT, headers=allowed)
    raise HTTPException(HTTPStatus.METHOD_NOT_ALLOWED, "the path has other methods", allowed)


@dataclass(frozen=True)
class OpenEndpoint:
    """Answers everybody. While one that is `held` answers, its service does not end."""

    handler: OpenHandler
    held: bool = False

    async def respond(self, request: Request, current: Callable[[], Service], send: Send) -> None:
        with _service(current, held=self.held) as service:
            response = await self.handler(request, service)
            await response(request.scope, request.receive, send)


@dataclass(frozen=True)
class GuardedEndpoint:
    """Answers known callers, with `scope` only those that have it.

    While one that is `held` answers, its service does not end, unless that takes too long.
    """

    handler: Handler
    scope: Scope | None = None
    held: bool = True

    async def respond(self, request: Request, current: Callable[[], Service], send: Send) -> None:
        """Answer one request; the caller's limits count it until it is answered in full."""
        client = request.client.host if request.client else ""
        with _service(current, held=self.held) as service:
            caller = await service.authenticator.authenticate(request.headers, client=client)
            request.state.caller = caller.id
            if self.scope is not None and not caller.may(self.scope):
                raise ForbiddenError(f"this needs a caller with the scope {self.scope}")
            with service.limiter.admit(caller):
                response = await self.handler(request, caller, service)
                await response(request.scope, request.receive, send)


Endpoint = OpenEndpoint | GuardedEndpoint


class Resource:
    """What is at a path: an endpoint for each method. HEAD is answered as GET is."""

    def __init__(self, current: Callable[[], Service], endpoints: Mapping[str, Endpoint]) -> None:
        self._current = current
        self._endpoints = dict(endpoints)
        if "GET" in endpoints:
            self._endpoints["HEAD"] = endpoints["GET"]

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        """Answer one request; to OPTIONS, the methods that there are."""
        endpoint = self._endpoints.get(scope["method"])
        if endpoint is None:
            response = other_method(scope["method"], self._endpoints)
            await response(scope, receive, send)
        else:
            await endpoint.respond(Request(scope, receive, send), self._current, send)


class Fallback:
    """One endpoint for all methods and paths that nothing else answers."""

    def __init__(self, current: Callable[[], Service], endpoint: Endpoint) -> None:
        self._current = current
        self._endpoint = endpoint

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        await self._endpoint.respond(Request(scope, receive, send), self._current, send)


@contextlib.contextmanager
def _service(current: Callable[[], Service], *, held: bool) -> Iterator[Service]:
    """The service in force; if it is `held`, its end waits until the block is left.

    Raises:
        OverloadedError: it has begun to end, and there is no other.
    """
    if not held:
        yield current()
        return
    while not (service := current()).pending.enter():
        if current() is service:
            raise OverloadedError("the server is stopping", retry_after=1.0)
    try:
        yield service
    finally:
        service.pending.leave()
