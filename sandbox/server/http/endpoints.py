"""`GuardedEndpoint` lets a caller in, holds it to its limits, and hands its request on."""

from __future__ import annotations

import contextlib
from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from sandbox.errors import ForbiddenError, OverloadedError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator

    from starlette.types import ASGIApp, Receive, Scope, Send

    from sandbox.config.server_settings import Scope as Right
    from sandbox.server.auth.callers import Caller
    from sandbox.server.service import Service


class Handler(Protocol):
    """What answers a request of a caller that was let in."""

    async def __call__(self, request: Request, caller: Caller, service: Service) -> Response:
        """The answer. Raises SandboxError or HTTPException."""


class Resource:
    """What is at a path: an endpoint for each method. HEAD is answered as GET is."""

    def __init__(self, **endpoints: ASGIApp) -> None:
        self._endpoints = dict(endpoints)
        if "GET" in endpoints:
            self._endpoints["HEAD"] = endpoints["GET"]
        self._methods = {*self._endpoints, "OPTIONS"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; to OPTIONS, the methods that there are."""
        endpoint = self._endpoints.get(scope["method"]) or other_method(
            scope["method"], self._methods
        )
        await endpoint(scope, receive, send)


def other_method(method: str, methods: Iterable[str]) -> Response:
    """The answer where a path has other methods.

    Raises:
        HTTPException: 405, unless those are what is asked for.
    """
    allowed = {"Allow": ", ".join(sorted({*methods, "OPTIONS"}))}
    if method == "OPTIONS":
        return Response(status_code=HTTPStatus.NO_CONTENT, headers=allowed)
    raise HTTPException(HTTPStatus.METHOD_NOT_ALLOWED, "the path has other methods", allowed)


class OpenEndpoint:
    """An endpoint for everybody."""

    def __init__(self, handler: Callable[[Request], Awaitable[Response]]) -> None:
        self._handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        response = await self._handler(Request(scope, receive, send))
        await response(scope, receive, send)


class GuardedEndpoint:
    """An endpoint. Without `right`, every caller that is known may use it.

    While one that is `held` answers, its service does not end, unless that takes too long.
    """

    def __init__(
        self,
        handler: Handler,
        *,
        current: Callable[[], Service],
        right: Right | None = None,
        held: bool = True,
    ) -> None:
        self._handler = handler
        self._current = current
        self._right = right
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; the caller's limits count it until it is answered in full."""
        request = Request(scope, receive, send)
        client = request.client.host if request.client else ""
        current = self._current
        with taken_by(current) if self._held else contextlib.nullcontext(current()) as service:
            caller = await service.authenticator.authenticate(request.headers, client=client)
            request.state.caller = caller.id
            if self._right is not None and not caller.may(self._right):
                raise ForbiddenError(f"this needs a caller with the scope {self._right}")
            with service.limiter.admit(caller):
                response = await self._handler(request, caller, service)
                await response(scope, receive, send)


@contextlib.contextmanager
def taken_by(current: Callable[[], Service]) -> Iterator[Service]:
    """The service that is in force; it waits meanwhile, should it end.

    Raises:
        OverloadedError: it has begun to end, and there is no other.
    """
    while not (service := current()).pending.enter():
        if current() is service:
            raise OverloadedError("the server is stopping", retry_after=1.0)
    try:
        yield service
    finally:
        service.pending.leave()
