"""uvicorn's protocol, with bounds for what a client may have a connection wait for.

uvicorn has no limit of time for headers, none for a client that does not read its answer, and its
parser gathers a header of any length. What a body may take is bounded where it is read, in
`sandbox.server.http.body`.
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
    from starlette.types import Receive, Scope, Send

    from sandbox.config.server_settings import ServerSettings

# Bytes of the request line and all headers.
LARGEST_HEAD: Final = 32 * 1024
# Fed to the parser at once: what it gathers without telling is bounded by this and the above.
_SLICE: Final = 16 * 1024
# Bytes a second that a client reads at least, where it is behind.
_SLOWEST: Final = 4096
# So many connections over the limit are told so; any more are closed at once.
_TOLD: Final = 256
_CLOSE: Final = {"Connection": "close"}


class _HeadTooLargeError(Exception):
    """More bytes of headers than anybody needs."""


def bounded_protocol(current: Callable[[], ServerSettings]) -> type[HttpToolsProtocol]:
    """A protocol whose clients have `patience` seconds for headers, and to read on.

    At most `connections` are served; of the settings that `current` gives when they begin.
    """

    class Bounded(HttpToolsProtocol):
        """Ends the connection of a client that is too slow or sends too much."""

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            self._patience = current().patience
            self._timer: asyncio.TimerHandle | None = None
            self._reading: asyncio.TimerHandle | None = None
            # Between the first byte of a request and the last; and until its headers are complete.
            self._in_message = self._in_head = False
            self._size = self._raw = 0
            super().connection_made(transport)
            over = len(self.connections) - current().connections
            if over > _TOLD:
                transport.abort()
                return
            if over > 0:
                self.app = _refuse_connection
            _end_if_nothing_is_taken(transport, self._patience)
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
                # What comes between requests, such as an empty line, begins none. Most requests
                # come whole, and have nothing to wait for.
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
            if self._idle():  # it was answered before all of it came
                self._wait()
            super().on_message_complete()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            # Nobody reads the rest of a request that has its answer, and it may not take for ever.
            if self._in_message and not self.transport.is_closing():
                self._wait()

        def send_400_response(self, msg: str) -> None:  # noqa: ARG002
            """Answer to what is no request of HTTP, and end the connection."""
            if self.cycle is not None and self.cycle.response_started and not self._idle():
                self.transport.abort()  # an answer is on its way, and cannot become this one
                return
            if max(self._size, self._raw) > LARGEST_HEAD:
                answer = _problem(
                    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the headers are too large"
                )
            else:
                answer = _problem(HTTPStatus.BAD_REQUEST, "this is no request of HTTP")
            self.transport.write(_as_sent(answer))
            self.transport.close()

        def pause_writing(self) -> None:
            """The client is behind with reading: see to it that it goes on."""
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
            else:  # the next request, while one is served: its bytes may not even be read
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


def _end_if_nothing_is_taken(transport: asyncio.Transport, patience: float) -> None:
    """Have the kernel end a connection whose other side takes nothing that is sent to it."""
    connected: Any = transport.get_extra_info("socket")
    if connected is not None and connected.family in (socket.AF_INET, socket.AF_INET6):
        option = socket.TCP_USER_TIMEOUT
        connected.setsockopt(socket.IPPROTO_TCP, option, round(patience * 1000))


async def _refuse_connection(scope: Scope, receive: Receive, send: Send) -> None:
    answer = _problem(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "the server has as many connections as it takes",
        {"Retry-After": "1"},
    )
    await answer(scope, receive, send)


def _problem(status: HTTPStatus, detail: str, headers: dict[str, str] | None = None) -> Response:
    """A problem that is met before the application is."""
    code = Code.OVERLOADED if status >= HTTPStatus.INTERNAL_SERVER_ERROR else Code.INVALID_REQUEST
    request_id = new_request_id()
    return problem(
        status,
        FunctionError(code=code, message=detail),
        Subject(request_id, path=""),
        headers={**_CLOSE, "X-Request-Id": request_id, **(headers or {})},
    )


def _as_sent(answer: Response) -> bytes:
    status = HTTPStatus(answer.status_code)
    lines = [f"HTTP/1.1 {status.value} {status.phrase}".encode()]
    lines += [b"%s: %s" % header for header in answer.raw_headers]
    return b"\r\n".join([*lines, b"", bytes(answer.body)])
