"""Attaches to a container's stdio on an engine that is reached over TCP.

The pool polls a descriptor, and ends a function's stdin by half-closing it. A TLS connection has no
descriptor that tells of decrypted data, and no half-close as plain sockets have. So the caller gets
one end of a pair of plain sockets. A `_Tunnel` encrypts between the other end and the engine, and
turns a half-close into TLS's close_notify, after which the engine may still write. One thread
carries all tunnels.

A Unix socket needs nothing of this, and does not import it.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode

from sandbox.engine.loop_thread import LoopThread
from sandbox.errors import EngineUnavailableError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from sandbox.engine.docker.endpoint import Endpoint, Tls

_READ_SIZE: Final = 64 * 1024
_ATTACH: Final = urlencode({"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1})
_UPGRADE: Final = {"Connection": "Upgrade", "Upgrade": "tcp", "Content-Type": "text/plain"}


class Attacher:
    """Opens streams to containers of the engine at `endpoint`. Safe to use from many threads.

    Opening a stream takes at most `timeout` seconds.
    """

    def __init__(self, endpoint: Endpoint, *, timeout: float) -> None:
        self._endpoint = endpoint
        self._timeout = timeout
        self._context = None if endpoint.tls is None else client_context(endpoint.tls)
        self._lock = threading.Lock()
        self._loop: LoopThread | None = None

    def attach(self, api_version: str, container_id: str) -> socket.socket:
        """A plain socket that speaks Docker's stream of one container.

        Raises:
            OSError: the connection failed; ssl.SSLError among them.
            EngineUnavailableError: the engine did not answer as it should.
        """
        stream = self._connect()
        try:
            connection = http.client.HTTPConnection(self._endpoint.host, self._endpoint.port)
            connection.sock = stream
            connection.request(
                "POST", f"/v{api_version}/containers/{container_id}/attach?{_ATTACH}", b"", _UPGRADE
            )
            # No data follows the head of the answer: the container has not started yet.
            response = connection.getresponse()
            if response.status != http.client.SWITCHING_PROTOCOLS:
                raise EngineUnavailableError(
                    f"the engine answered with {response.status} when it was to attach a container",
                    hint="between this machine and the engine there may be no proxy",
                )
        except http.client.HTTPException as error:
            stream.close()
            raise EngineUnavailableError(f"the engine's answer is garbled: {error!r}") from error
        except BaseException:
            stream.close()
            raise
        stream.settimeout(None)
        return stream

    def close(self) -> None:
        with self._lock:
            loop, self._loop = self._loop, None
        if loop is not None:
            loop.submit(_cancel_all).result()
            loop.close()

    def _connect(self) -> socket.socket:
        address = (self._endpoint.host, self._endpoint.port)
        outer = socket.create_connection(address, timeout=self._timeout)
        try:
            # Requests are small, and a caller waits for each; a container may wait long for its
            # own.
            outer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            outer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            outer.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30)
            if self._context is None:
                return outer
            tunnel = _Tunnel(outer, self._context, self._endpoint.host)
            tunnel.shake_hands()
        except BaseException:
            outer.close()
            raise
        ours, theirs = socket.socketpair()
        stream = _Stream(fileno=ours.detach())
        stream.on_close = lambda: self._hang_up(tunnel)
        stream.settimeout(self._timeout)
        self._tunnel_loop().submit(lambda: tunnel.carry(theirs))
        return stream

    def _hang_up(self, tunnel: _Tunnel) -> None:
        with self._lock:
            if self._loop is not None:
                self._loop.submit(tunnel.hang_up)

    def _tunnel_loop(self) -> LoopThread:
        with self._lock:
            if self._loop is None:
                self._loop = LoopThread()
            return self._loop


class _Stream(socket.socket):
    """A plain socket that tells its tunnel when it is closed; an idle one would not notice."""

    def __init__(self, *, fileno: int) -> None:
        super().__init__(fileno=fileno)
        self.on_close: Callable[[], None] = lambda: None

    def close(self) -> None:
        super().close()
        self.on_close()


class _Tunnel:
    """TLS over `outer`, by hand, because the standard library's sockets cannot half-close it."""

    def __init__(self, outer: socket.socket, context: ssl.SSLContext, host: str) -> None:
        self._outer = outer
        self._received = ssl.MemoryBIO()
        self._to_send = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._received, self._to_send, server_hostname=host)
        self._carried: asyncio.Task[None] | None = None

    def shake_hands(self) -> None:
        """Do the TLS handshake; blocks up to the socket's timeout. Raises OSError."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._outer.sendall(self._to_send.read())
                data = self._outer.recv(_READ_SIZE)
                if not data:
                    raise ConnectionResetError(
                        "the engine hung up during the TLS handshake"
                    ) from None
                self._received.write(data)
            else:
                self._outer.sendall(self._to_send.read())
                return

    async def carry(self, inner: socket.socket) -> None:
        """Carry bytes both ways until the engine ends the stream, or `hang_up`."""
        import asyncio  # noqa: PLC0415 - in its thread

        loop = asyncio.get_running_loop()
        self._carried = asyncio.current_task()
        self._outer.setblocking(False)
        inner.setblocking(False)
        outwards = asyncio.ensure_future(self._outwards(loop, inner))
        try:
            await self._inwards(loop, inner)
        except (OSError, asyncio.CancelledError):
            pass  # either side is gone: the reader finds an end of the stream
        finally:
            outwards.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError):
                await outwards
            inner.close()
            self._outer.close()

    async def hang_up(self) -> None:
        """End the tunnel: its reader has gone."""
        if self._carried is not None:
            self._carried.cancel()

    async def _outwards(self, loop: asyncio.AbstractEventLoop, inner: socket.socket) -> None:
        while data := await loop.sock_recv(inner, _READ_SIZE):
            self._tls.write(data)
            await loop.sock_sendall(self._outer, self._to_send.read())
        # Half-close. All that came has been decrypted already, so this only writes: it looks for
        # the engine's own close_notify behind that, and finds nothing yet.
        with contextlib.suppress(ssl.SSLError):
            self._tls.unwrap()
        await loop.sock_sendall(self._outer, self._to_send.read())

    async def _inwards(self, loop: asyncio.AbstractEventLoop, inner: socket.socket) -> None:
        # Does not wait for the other direction: the engine reads only while it can write.
        while data := await loop.sock_recv(self._outer, _READ_SIZE):
            self._received.write(data)
            plain, more = self._decrypt()
            await loop.sock_sendall(inner, plain)
            if not more:
                return

    def _decrypt(self) -> tuple[bytes, bool]:
        """Everything that can be decrypted now, and whether more may come."""
        plain = bytearray()
        try:
            while block := self._tls.read(_READ_SIZE):
                plain += block
        except ssl.SSLWantReadError:
            return bytes(plain), True
        except ssl.SSLError:  # its end, or a forged record
            pass
        return bytes(plain), False

    async def _flush(self, loop: asyncio.AbstractEventLoop, sending: asyncio.Lock) -> None:
        async with sending:
            while data := self._to_send.read():
                await loop.sock_sendall(self._outer, data)


def client_context(tls: Tls) -> ssl.SSLContext:
    """The TLS context: the certificates that it checks, and our own.

    Raises:
        EngineUnavailableError: a file is missing or is no certificate or key.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if not tls.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        elif tls.ca is not None:
            context.load_verify_locations(tls.ca)
        else:
            context.load_default_certs()
        if tls.cert is not None:
            context.load_cert_chain(tls.cert, tls.key)
    except OSError as error:  # SSLError among them
        raise EngineUnavailableError(
            f"the certificates for the engine cannot be used: {error}",
            hint="see `engine.tls` in the settings, or DOCKER_CERT_PATH",
        ) from error
    return context


async def _cancel_all() -> None:
    import asyncio  # noqa: PLC0415 - in its thread

    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
