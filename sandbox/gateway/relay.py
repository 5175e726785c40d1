"""Accepts the connections of one container, and joins each to its destination.

It reads from one side only when the other side has taken everything before, so it holds only bytes
that are on their way. It runs in the gateway's event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from sandbox.config.destinations import NOT_ALLOWED
from sandbox.gateway import connect
from sandbox.gateway.connect import ProxyError
from sandbox.gateway.dialer import DestinationRefusedError, UnreachableError
from sandbox.gateway.traffic import CapExceededError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sandbox.config.destinations import GatewayRoute, NetworkPolicy
    from sandbox.gateway.dialer import Dialer
    from sandbox.gateway.traffic import TrafficCounter

log = logging.getLogger(__name__)

_READ_SIZE: Final = 64 * 1024
_PROXY: Final = "proxy"
# The wait before accepting again, after a cap or without a free descriptor: a function that goes on
# connecting costs little.
_PAUSE: Final = 0.1


class Relay:
    """Accepts connections on `sockets` and joins them, until `close`.

    `sockets` are listening Unix sockets, each with its destination's route; the proxy's has none.
    """

    def __init__(
        self,
        sockets: Iterable[tuple[socket.socket, GatewayRoute | None]],
        *,
        policy: NetworkPolicy,
        dialer: Dialer,
        traffic: Callable[[], TrafficCounter],
        header_timeout: float,
    ) -> None:
        self._policy = policy
        self._dialer = dialer
        self._traffic = traffic
        self._header_timeout = header_timeout
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._pauses: dict[socket.socket, asyncio.TimerHandle] = {}
        self._sockets = dict(sockets)
        for listening in self._sockets:
            self._listen(listening)

    async def close(self) -> None:
        for listening in self._sockets:
            self._loop.remove_reader(listening)
            listening.close()
        for pause in self._pauses.values():
            pause.cancel()
        self._dialer.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _listen(self, listening: socket.socket) -> None:
        self._pauses.pop(listening, None)
        self._loop.add_reader(listening, self._take, listening)

    def _pause(self, listening: socket.socket) -> None:
        self._loop.remove_reader(listening)
        self._pauses[listening] = self._loop.call_later(_PAUSE, self._listen, listening)

    def _take(self, listening: socket.socket) -> None:
        """Accept one connection. Between two, other events get their turn."""
        route, traffic = self._sockets[listening], self._traffic()
        try:
            client, _ = listening.accept()
        except BlockingIOError:
            return
        except OSError as error:
            log.warning("the gateway cannot take a connection: %s", error)
            self._pause(listening)
            return
        try:
            traffic.connect()
        except CapExceededError as exceeded:
            traffic.deny(_PROXY if route is None else str(route.destination), str(exceeded))
            client.close()
            self._pause(listening)
            return
        client.setblocking(False)
        task = self._loop.create_task(self._serve(client, route, traffic))
        self._tasks.add(task)

        # Not in the task: it may be cancelled before it begins.
        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            client.close()
            traffic.disconnect()

        task.add_done_callback(ended)

    async def _serve(
        self, client: socket.socket, route: GatewayRoute | None, traffic: TrafficCounter
    ) -> None:
        try:
            if route is None:
                await self._proxy(client, traffic)
            else:
                await self._direct(client, route, traffic)
        except OSError:
            return  # one side has gone, so the connection ends
        except Exception:  # the edge of a task: nobody awaits it
            log.exception("a defect of ours ended a connection")

    async def _direct(
        self, client: socket.socket, route: GatewayRoute, traffic: TrafficCounter
    ) -> None:
        destination = str(route.destination)
        try:
            upstream = await self._dialer.dial(route)
        except DestinationRefusedError as refused:
            traffic.deny(destination, str(refused))
        except UnreachableError as unreachable:
            traffic.failed(destination, str(unreachable))
        else:
            with upstream:
                traffic.connected(destination)
                await self._join(client, upstream, destination, traffic)

    async def _proxy(self, client: socket.socket, traffic: TrafficCounter) -> None:
        try:
            async with asyncio.timeout(self._header_timeout):
                header, rest = await self._header(client)
            destination = connect.parse_connect(header)
            route = self._policy.route(destination)
            if route is None:
                raise ProxyError(HTTPStatus.FORBIDDEN, NOT_ALLOWED, target=str(destination))
            try:
                upstream = await self._dialer.dial(route)
            except DestinationRefusedError as refused:
                raise ProxyError(
                    HTTPStatus.FORBIDDEN, str(refused), target=str(destination)
                ) from None
        except ProxyError as error:
            traffic.deny(error.target, error.reason)
            await self._answer(client, connect.answer(error.status, error.reason))
        except TimeoutError:
            traffic.deny(_PROXY, "no request came in time")
        except UnreachableError as error:
            traffic.failed(str(destination), str(error))
            await self._answer(client, connect.answer(HTTPStatus.BAD_GATEWAY, str(error)))
        else:
            with upstream:
                name = str(destination)
                traffic.connected(name)
                await self._loop.sock_sendall(client, connect.ESTABLISHED)
                await self._join(client, upstream, name, traffic, first=rest)

    async def _header(self, client: socket.socket) -> tuple[bytes, bytes]:
        data = b""
        while connect.HEADER_END not in data:
            if len(data) > connect.MAX_HEADER:
                raise ProxyError(
                    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the request's header is too large"
                )
            more = await self._loop.sock_recv(client, connect.MAX_HEADER)
            if not more:
                raise ConnectionResetError
            data += more
        header, _, rest = data.partition(connect.HEADER_END)
        return header, rest

    async def _answer(self, client: socket.socket, answer: bytes) -> None:
        """Send a refusal to a client, which may have gone."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._header_timeout):
                await self._loop.sock_sendall(client, answer)

    async def _join(
        self,
        client: socket.socket,
        upstream: socket.socket,
        destination: str,
        traffic: TrafficCounter,
        *,
        first: bytes = b"",
    ) -> None:
        """Carry bytes both ways until both sides have ended, one fails, or a cap is reached."""

        def sent(count: int) -> None:
            traffic.sent(destination, count)

        def received(count: int) -> None:
            traffic.received(destination, count)

        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._carry(client, upstream, sent, first))
                group.create_task(self._carry(upstream, client, received))
        except* CapExceededError as exceeded:
            traffic.deny(destination, str(exceeded.exceptions[0]))
        except* OSError:
            pass  # one side has gone

    async def _carry(
        self,
        source: socket.socket,
        sink: socket.socket,
        count: Callable[[int], None],
        data: bytes = b"",
    ) -> None:
        """Carry bytes from `source` to `sink` until the end of the stream, and pass that on too."""
        while data or (data := await self._loop.sock_recv(source, _READ_SIZE)):
            count(len(data))
            await self._loop.sock_sendall(sink, data)
            data = b""
            # Reading and writing return at once if they can, so give other tasks a turn.
            await asyncio.sleep(0)
        sink.shutdown(socket.SHUT_WR)
