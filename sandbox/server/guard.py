"""`Guard`: lets a caller in, holds it to its limits, and hands the request to its handler."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from starlette.requests import Request

from sandbox.errors import ForbiddenError

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.responses import Response
    from starlette.types import Receive, Scope, Send

    from sandbox.server.callers import Caller
    from sandbox.server.service import Service
    from sandbox.server_settings import Scope as Right


class Handler(Protocol):
    """What answers a request of a caller that was let in."""

    async def __call__(self, request: Request, caller: Caller, service: Service) -> Response:
        """The answer. Raises SandboxError or HTTPException."""


class Guard:
    """An endpoint. Without `right`, every caller that is known may use it."""

    def __init__(
        self, handler: Handler, *, current: Callable[[], Service], right: Right | None = None
    ) -> None:
        self._handler = handler
        self._current = current
        self._right = right

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; the caller's limits count it until it is answered in full."""
        request = Request(scope, receive, send)
        service = self._current()
        client = request.client.host if request.client else ""
        caller = await service.authenticator.authenticate(request.headers, client=client)
        request.state.caller = caller.id
        if self._right is not None and not caller.may(self._right):
            raise ForbiddenError(f"this needs a caller with the scope {self._right}")
        with service.limiter.admit(caller):
            response = await self._handler(request, caller, service)
            await response(scope, receive, send)
