"""The outermost layer: an id, headers and a log line for every request; every failure an answer."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Final

import structlog
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect

from sandbox.errors import InternalError
from sandbox.executor import new_request_id
from sandbox.server.problems import problem_from_error

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from sandbox.server.service import Service

log = logging.getLogger(__name__)
requests = structlog.get_logger(source="sandbox.requests")

# Answers are data, and no page may show or run them; the few pages there are say more.
_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


# Less than this is taken by the connection's buffer, and nobody waits for the client.
_BUFFERED: Final = 32 * 1024


class Edge:
    """Wraps the routes. The request's id is in its `state`, and is its execution's too."""

    def __init__(self, app: ASGIApp, *, current: Callable[[], Service]) -> None:
        self._app = app
        self._current = current

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, whatever happens."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin = time.perf_counter()
        settings = self._current().settings.server
        request_id = new_request_id()
        scope.setdefault("state", {})["request_id"] = request_id
        status = 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = request_id
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            if len(message.get("body", b"")) < _BUFFERED:
                await send(message)
                return
            # A client that does not read is not waited for: its connection ends.
            async with asyncio.timeout(settings.patience):
                await send(message)

        try:
            await self._answer(scope, receive, answer, request_id)
        except TimeoutError:
            if not status:
                raise
            log.warning("a client did not read its answer for %gs", settings.patience)
        finally:
            self._current().metrics.request(scope["method"], status or 499)
            requests.info(
                "request",
                method=scope["method"],
                path=scope["path"],
                status=status or 499,
                ms=round((time.perf_counter() - begin) * 1000, 3),
                request_id=request_id,
                client=(scope.get("client") or ("",))[0],
                caller=scope["state"].get("caller"),
            )

    async def _answer(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        begun = False

        async def note(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, note)
        except ClientDisconnect:
            return
        except TimeoutError:
            raise
        except Exception:
            log.exception("a request failed")
            if not begun:
                error = InternalError("a defect of the server")
                answer = problem_from_error(error, request_id=request_id, instance=scope["path"])
                await answer(scope, receive, send)
