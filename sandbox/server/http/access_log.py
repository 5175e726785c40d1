"""The outermost ASGI layer: it gives each request an id, standard headers and a log line."""

from __future__ import annotations

import logging
import re
import time
from typing import TYPE_CHECKING, Final

import structlog
from starlette.requests import ClientDisconnect

from sandbox.ids import new_request_id

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import ASGIApp, Message, Receive, Send
    from starlette.types import Scope as ASGIScope

    from sandbox.server.service import Service

log = logging.getLogger(__name__)
requests = structlog.get_logger(source="sandbox.requests")

# Answers are data: no page may frame or run them. The API page has a policy of its own.
_HEADERS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
)
# Ids that a client may choose. Any other could forge log lines, and is replaced.
_SAFE_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/+=-]{0,127}", re.ASCII)


class AccessLog:
    """Wraps the application. Sets `request_id` in the request's state: `X-Request-Id`, or a new id.

    Also sets `execution_id`, always a new id: an id that a client chooses may exist already.
    """

    def __init__(self, app: ASGIApp, *, current: Callable[[], Service]) -> None:
        self._app = app
        self._current = current

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin = time.perf_counter()
        execution_id = new_request_id()
        request_id = _chosen_id(scope) or execution_id
        scope.setdefault("state", {}).update(request_id=request_id, execution_id=execution_id)
        status = 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = int(message["status"])
                headers = list(message.get("headers", ()))
                names = {name for name, _ in headers}
                headers += [header for header in _HEADERS if header[0] not in names]
                headers.append((b"x-request-id", request_id.encode()))
                message["headers"] = headers
            await send(message)

        try:
            await self._app(scope, receive, answer)
        except ClientDisconnect:
            pass
        except Exception:  # Starlette has answered with 500, unless an answer had begun
            log.exception("the request %s failed", request_id)
        finally:
            self._current().metrics.request(scope["method"], status or 499)
            requests.info(
                "request",
                method=scope["method"],
                path=scope["path"],
                status=status or 499,
                ms=round((time.perf_counter() - begin) * 1000, 3),
                request_id=request_id,
                execution_id=scope["state"].get("execution_id"),
                client=(scope.get("client") or ("",))[0],
                caller=scope["state"].get("caller"),
            )


def _chosen_id(scope: ASGIScope) -> str | None:
    """`X-Request-Id`, if it is a safe id."""
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            text = value.decode("latin-1")
            return text if _SAFE_ID.fullmatch(text) else None
    return None
