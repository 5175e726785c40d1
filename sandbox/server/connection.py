"""uvicorn's protocol, with bounds for what comes before a request's body."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

if TYPE_CHECKING:
    import asyncio

    from sandbox.server_settings import ServerSettings

# Bytes of the request line and all headers.
LARGEST_HEAD: Final = 32 * 1024
_TOO_LARGE: Final = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-type: text/plain; charset=utf-8\r\ncontent-length: 21\r\nconnection: close\r\n\r\n"
    b"Headers are too large"
)


class _HeadTooLargeError(Exception):
    """More bytes of headers than anybody needs."""


def bounded_protocol(settings: ServerSettings) -> type[HttpToolsProtocol]:
    """A protocol whose clients have `patience` seconds for a request's line and headers."""

    class Bounded(HttpToolsProtocol):
        """Closes the connection of a client that is too slow or sends too much."""

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            self._size = 0
            self._timer: asyncio.TimerHandle | None = None
            super().connection_made(transport)
            self._wait_for_head()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_waiting()
            super().connection_lost(exc)

        def on_message_begin(self) -> None:
            self._size = 0
            self._wait_for_head()
            super().on_message_begin()

        def on_url(self, url: bytes) -> None:
            self._count(len(url))
            super().on_url(url)

        def on_header(self, name: bytes, value: bytes) -> None:
            self._count(len(name) + len(value))
            super().on_header(name, value)

        def on_headers_complete(self) -> None:
            self._stop_waiting()
            super().on_headers_complete()

        def send_400_response(self, msg: str) -> None:
            if self._size <= LARGEST_HEAD:
                super().send_400_response(msg)
                return
            self.transport.write(_TOO_LARGE)
            self.transport.close()

        def _count(self, size: int) -> None:
            self._size += size
            if self._size > LARGEST_HEAD:
                raise _HeadTooLargeError

        def _wait_for_head(self) -> None:
            self._stop_waiting()
            self._timer = self.loop.call_later(settings.patience, self._too_slow)

        def _stop_waiting(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _too_slow(self) -> None:
            transport: Any = self.transport
            if not transport.is_closing():
                transport.abort()

    return Bounded
