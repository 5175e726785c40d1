"""A server on loopback, and gateways whose names answer as a test says."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from sandbox.config.destinations import Destination, NetworkPolicy
from sandbox.config.settings import NetworkSettings
from sandbox.gateway.gateway import Gateway, Gateways

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


class Server:
    """Answers every connection with `greeting`, then with what it was sent, until its end."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self.greeting = b""
        self.connections = 0
        self._listening = socket.create_server((host, port))
        self.port: int = self._listening.getsockname()[1]
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(client)
            self._threads.append(threading.Thread(target=self._serve, args=[client]))
            self._threads[-1].start()

    def _serve(self, client: socket.socket) -> None:
        try:
            client.sendall(self.greeting)
            while data := client.recv(65536):
                client.sendall(data)
            client.shutdown(socket.SHUT_WR)
        except OSError:
            return

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._threads[0].join()
        for client in self._open:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for client in self._open:
            client.close()


class Names:
    """A resolver whose answers a test can change; it counts how often it was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, list[str]] = {}
        self.asked: list[str] = []

    def __call__(self, host: str) -> list[str]:
        self.asked.append(host)
        if host not in self.answers:
            raise OSError("no such name")
        return self.answers[host]


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
def names() -> Names:
    return Names()


@pytest.fixture
def opened(tmp_path: Path, names: Names) -> Iterator[Callable[..., Gateway]]:
    """`opened("host:port", private=[…], max_bytes=…)` opens a gateway for these destinations."""
    made: list[Gateways] = []

    def open_gateway(
        *destinations: str,
        private: tuple[str, ...] = (),
        policy: NetworkPolicy | None = None,
        **settings: object,
    ) -> Gateway:
        # Longer than a socket's path may be.
        directory = tmp_path / f"{len(made)}{'x' * 120}"
        gateways = Gateways(
            NetworkSettings.model_validate(settings), directory=directory, resolver=names
        )
        made.append(gateways)
        return gateways.open(
            policy
            or NetworkPolicy(
                destinations=tuple(map(Destination.parse, destinations)),
                private=tuple(map(Destination.parse, private)),
            )
        )

    yield open_gateway
    for gateways in made:
        gateways.close()
    assert list(tmp_path.iterdir()) == []
