"""uvicorn's HTTP protocol, with limits for slow clients, large headers and many connections.

uvicorn itself waits for headers without end, and for clients that do not read their answers, and
its parser collects headers of any length. `sandbox.server.http.body` limits bodies.
"""

from __future__ import annotations

import socket
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from sandbox.errors import Code
from sandbox.ids import new_request_id
from sandbox.models import FunctionError
from sandbox.server.http.problems import Subject, problem

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from starlette.responses import Response
    from starlette.types import Receive, Send
    from starlette.types import Scope as ASGIScope

    from sandbox.config.server_settings import ServerSettings

# Bytes of the request line and all headers together.
LARGEST_HEAD: Final = 32 * 1024
# Bytes given to the parser at once. What it collects before it reports a header is at most this
# and `LARGEST_HEAD`.
_SLICE: Final = 16 * 1024
# Bytes a second that a client has to read while the server waits for it.
_SLOWEST: Final = 4096
# So many connections over the limit are answered with 503; any more are closed at once.
_ANSWERED: Final = 256
_CLOSE: Final = {"Connection": "close"}


class _HeadTooLargeError(Exception):
    """The request line and the headers are larger than `LARGEST_HEAD`."""


def bounded_protocol(current: Callable[[], ServerSettings]) -> type[HttpToolsProtocol]:
    """A protocol that gives clients `patience` seconds for headers, and for reading each part.

    It serves at most `connections`. A connection has the settings that `current` gives when it
    begins.
    """

    class Bounded(HttpToolsProtocol):
        """Ends the connection of a client that is too slow or sends too much."""

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            self._patience = current().patience
            self._timer: asyncio.TimerHandle | None = None
            self._reading: asyncio.TimerHandle | None = None
            # True from the first byte of a request to its last; and until its headers are complete.
            self._in_message = self._in_head = False
            self._size = self._raw = 0
            super().connection_made(transport)
            over = len(self.connections) - current().connections
            if over > _ANSWERED:
                transport.abort()
                return
            if over > 0:
                self.app = _refuse_connection
            _set_user_timeout(transport, self._patience)
            self._wait()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_waiting()
            self._stop_reading()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            for start in range(0, len(data), _SLICE):
                part = data if len(data) <= _SLICE else data[start : start + _SLICE]
                began_before = self._in_head
                super().data_received(part)
                if self.transport.is_closing():
                    return
                # Bytes between requests, such as an empty line, do not begin a request. Most
                # requests come whole, and need no timer.
                between = not self._in_message and self._idle()
                if self._timer is None and (self._in_head or between):
                    self._wait()
                if began_before and self._in_head:
                    self._raw += len(part)
                    if self._raw > LARGEST_HEAD:
                        self.send_400_response("")
                        return

        def on_message_begin(self) -> None:
            self._in_message = self._in_head = True
            self._size = self._raw = 0
            if self._timer is not None:
                self._wait()
            super().on_message_begin()

        def on_url(self, url: bytes) -> None:
            self._count(len(url))
            super().on_url(url)

        def on_header(self, name: bytes, value: bytes) -> None:
            self._count(len(name) + len(value))
            super().on_header(name, value)

        def on_headers_complete(self) -> None:
            self._in_head = False
            self._stop_waiting()
            super().on_headers_complete()

        def on_message_complete(self) -> None:
            self._in_message = False
            if self._idle():  # the answer was sent before the whole request came
                self._wait()
            super().on_message_complete()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            # The rest of a request that is answered is not read, and may not take forever.
            if self._in_message and not self.transport.is_closing():
                self._wait()

        def send_400_response(self, msg: str) -> None:  # noqa: ARG002
            """Answer with 400 or 431, and close the connection."""
            if self.cycle is not None and self.cycle.response_started and not self._idle():
                self.transport.abort()  # another answer is being sent
                return
            if max(self._size, self._raw) > LARGEST_HEAD:
                answer = _problem(
                    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the headers are too large"
                )
            else:
                answer = _problem(HTTPStatus.BAD_REQUEST, "this is no request of HTTP")
            self.transport.write(_encode(answer))
            self.transport.close()

        def pause_writing(self) -> None:
            """Start to measure how fast the client reads: the write buffer is full."""
            super().pause_writing()
            self._watch_reading()

        def resume_writing(self) -> None:
            self._stop_reading()
            super().resume_writing()

        def _count(self, size: int) -> None:
            self._size += size
            if self._size > LARGEST_HEAD:
                raise _HeadTooLargeError

        def _idle(self) -> bool:
            return self.cycle is None or self.cycle.response_complete

        def _wait(self) -> None:
            self._stop_waiting()
            self._timer = self.loop.call_later(self._patience, self._too_slow)

        def _stop_waiting(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _too_slow(self) -> None:
            self._timer = None
            if self._idle():
                self.transport.abort()
            else:  # these are headers of the next request, which wait for the answer to this one
                self._wait()

        def _watch_reading(self) -> None:
            self._stop_reading()
            self._unread: int = self.transport.get_write_buffer_size()
            self._reading = self.loop.call_later(self._patience, self._look_at_reading)

        def _stop_reading(self) -> None:
            if self._reading is not None:
                self._reading.cancel()
                self._reading = None

        def _look_at_reading(self) -> None:
            read = self._unread - self.transport.get_write_buffer_size()
            if read < self._patience * _SLOWEST:
                self.transport.abort()
            else:
                self._watch_reading()

    return Bounded


def _set_user_timeout(transport: asyncio.Transport, patience: float) -> None:
    """Let the kernel end the connection if the other side acknowledges nothing for so long."""
    connected: Any = transport.get_extra_info("socket")
    if connected is not None and connected.family in (socket.AF_INET, socket.AF_INET6):
        option = socket.TCP_USER_TIMEOUT
        connected.setsockopt(socket.IPPROTO_TCP, option, round(patience * 1000))


async def _refuse_connection(scope: ASGIScope, receive: Receive, send: Send) -> None:
    answer = _problem(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "the server has as many connections as it takes",
        {"Retry-After": "1"},
    )
    await answer(scope, receive, send)


def _problem(status: HTTPStatus, detail: str, headers: dict[str, str] | None = None) -> Response:
    """The problem document of a request that does not reach the application."""
    code = Code.OVERLOADED if status >= HTTPStatus.INTERNAL_SERVER_ERROR else Code.INVALID_REQUEST
    request_id = new_request_id()
    return problem(
        status,
        FunctionError(code=code, message=detail),
        Subject(request_id, path=""),
        headers={**_CLOSE, "X-Request-Id": request_id, **(headers or {})},
    )


def _encode(answer: Response) -> bytes:
    status = HTTPStatus(answer.status_code)
    lines = [f"HTTP/1.1 {status.value} {status.phrase}".encode()]
    lines += [b"%s: %s" % header for header in answer.raw_headers]
    return b"\r\n".join([*lines, b"", bytes(answer.body)])
