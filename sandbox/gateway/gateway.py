"""`Gateways`: the only way out of containers, because no container has a network interface.

For each destination of a container there is a Unix socket, in a directory that is mounted into the
container. A connection to the socket leads to that destination and to nothing else. On the host,
only the owner can enter the directory above, so nobody else can connect.
"""

from __future__ import annotations

import logging
import os
import resource
import shutil
import socket
import threading
import uuid
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from sandbox.engine.base import Mount
from sandbox.engine.loop_thread import LoopThread
from sandbox.gateway.allocation import SOCKETS_DIR, Attachment, allocate
from sandbox.gateway.resolver import system_resolver
from sandbox.gateway.traffic import TrafficCounter

if TYPE_CHECKING:
    from concurrent.futures import Future

    from sandbox.config.destinations import GatewayRoute, NetworkPolicy
    from sandbox.config.settings import NetworkSettings
    from sandbox.gateway.allocation import Allocation, Listener
    from sandbox.gateway.relay import Relay
    from sandbox.gateway.resolver import Resolver
    from sandbox.models import NetworkStats

log = logging.getLogger(__name__)

_BACKLOG: Final = 128
_MOST_DESCRIPTORS: Final = 1 << 20
# Init answers there that a name does not exist. It is in the same container, so one try will do.
_RESOLV_CONF: Final = "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n"


class Gateway:
    """The gateway of one container. `Gateways.open` makes it.

    `attachment` is the container's part of it.
    """

    def __init__(
        self, gateways: Gateways, policy: NetworkPolicy, allocation: Allocation, directory: Path
    ) -> None:
        self.policy = policy
        self.attachment: Attachment
        self._gateways = gateways
        self._allocation = allocation
        self._directory = directory
        self._traffic = gateways.traffic()
        self._relay: Relay | None = None
        self._closed = False
        mounts = [
            Mount(source=gateways.file(allocation.hosts_file), target="/etc/hosts"),
            Mount(source=gateways.file(_RESOLV_CONF), target="/etc/resolv.conf"),
        ]
        if allocation.listeners:
            mounts.append(Mount(source=directory, target=SOCKETS_DIR, live=True))
            sockets = _listen(directory, allocation.listeners)
            gateways.loop.submit(lambda: self._start(sockets)).add_done_callback(_log_defect)
        self.attachment = Attachment(
            arguments=allocation.arguments, mounts=tuple(mounts), env=allocation.env
        )

    def begin(self) -> None:
        """Start the counts and caps of a new invocation at zero.

        Addresses stay pinned. Open connections still count for the invocation before.
        """
        self._traffic = self._gateways.traffic()

    def stats(self) -> NetworkStats:
        return self._traffic.stats()

    def close(self) -> None:
        """End every connection and remove the sockets. May be called twice."""
        if self._closed:
            return
        self._closed = True
        if self._allocation.listeners:
            self._gateways.loop.submit(self._stop).result()
            shutil.rmtree(self._directory, ignore_errors=True)
        self._gateways.forget(self)

    async def _start(self, sockets: list[tuple[socket.socket, GatewayRoute | None]]) -> None:
        from sandbox.gateway.dialer import Dialer  # noqa: PLC0415 - with asyncio, in its thread
        from sandbox.gateway.relay import Relay  # noqa: PLC0415

        timeout = self._gateways.settings.connect_timeout
        self._relay = Relay(
            sockets,
            policy=self.policy,
            dialer=Dialer(resolver=self._gateways.resolver, timeout=timeout),
            traffic=lambda: self._traffic,
            header_timeout=timeout,
        )

    async def _stop(self) -> None:
        if self._relay is not None:
            await self._relay.close()


class Gateways:
    """Makes gateways. One thread serves all of them; it starts with the first.

    Makes `directory`, mode 0700, for itself alone. A context manager.
    """

    def __init__(
        self,
        settings: NetworkSettings,
        *,
        directory: Path,
        resolver: Resolver = system_resolver,
    ) -> None:
        self.settings = settings
        self.resolver = resolver
        self._directory = directory
        self._lock = threading.Lock()
        self._open: set[Gateway] = set()
        self._files: dict[str, Path] = {}
        self._loop: LoopThread | None = None
        self._places = threading.BoundedSemaphore(_most_connections())

    def open(self, policy: NetworkPolicy) -> Gateway:
        """A gateway for one container. Its sockets accept connections at once.

        Raises:
            OSError: the sockets cannot be made.
        """
        allocation = allocate(policy)
        directory = self._directory / uuid.uuid4().hex
        gateway = Gateway(self, policy, allocation, directory)
        with self._lock:
            self._open.add(gateway)
        return gateway

    def close(self) -> None:
        """Close every gateway, and remove the directory. May be called twice."""
        with self._lock:
            gateways = list(self._open)
        for gateway in gateways:
            gateway.close()
        with self._lock:
            loop, self._loop = self._loop, None
            self._files.clear()
        if loop is not None:
            loop.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    @property
    def loop(self) -> LoopThread:
        with self._lock:
            if self._loop is None:
                self._loop = LoopThread()
            return self._loop

    def file(self, content: str) -> Path:
        """A file with this text, readable in any container. The same text gets the same file."""
        with self._lock:
            path = self._files.get(content)
            if path is None:
                self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                path = self._directory / sha256(content.encode()).hexdigest()
                path.write_text(content)
                path.chmod(0o644)
                self._files[content] = path
            return path

    def traffic(self) -> TrafficCounter:
        return TrafficCounter(self.settings, self._places)

    def forget(self, gateway: Gateway) -> None:
        with self._lock:
            self._open.discard(gateway)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _most_connections() -> int:
    """How many connections this process can hold: two descriptors each, half of all descriptors.

    The other half is for everything else, so no function can keep us from reaching the engine.
    """
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return max(16, min(limit, _MOST_DESCRIPTORS) // 4) if limit > 0 else _MOST_DESCRIPTORS // 4


def _log_defect(started: Future[None]) -> None:
    if started.exception() is not None:
        log.error("a gateway did not start", exc_info=started.exception())


def _listen(
    directory: Path, listeners: tuple[Listener, ...]
) -> list[tuple[socket.socket, GatewayRoute | None]]:
    """A listening socket for each listener, in a new directory."""
    directory.mkdir(mode=0o755)
    directory.chmod(0o755)  # whatever the umask
    sockets: list[tuple[socket.socket, GatewayRoute | None]] = []
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY)
    try:
        for listener in listeners:
            listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sockets.append((listening, listener.route))
            # A socket's path has at most 107 bytes. This one is short, wherever the directory is.
            path = f"/proc/self/fd/{descriptor}/{listener.name}"
            listening.bind(path)
            # The host knows no user with the container's uid.
            Path(path).chmod(0o666)
            listening.setblocking(False)
            listening.listen(_BACKLOG)
    except BaseException:
        for listening, _ in sockets:
            listening.close()
        shutil.rmtree(directory, ignore_errors=True)
        raise
    finally:
        os.close(descriptor)
    return sockets
