"""Counts the connections and bytes of one invocation, and holds it to its caps."""

from __future__ import annotations

import threading
from collections import Counter
from typing import TYPE_CHECKING, Final

from sandbox.models import NetworkAllowed, NetworkDenied, NetworkStats
from sandbox.units import format_size

if TYPE_CHECKING:
    from sandbox.config.settings import NetworkSettings

# Under a wildcard, a function chooses the names. Further names count as one entry.
MOST_ENTRIES: Final = 100
_OTHERS: Final = "(others)"


class CapExceededError(Exception):
    """A cap of `settings.network` was reached; the text says which, for the list of denied."""


class TrafficCounter:
    """The counts of one invocation. The gateway's thread writes them, any thread reads them.

    `places` are the connections that all invocations together may have at once.
    """

    def __init__(self, limits: NetworkSettings, places: threading.BoundedSemaphore) -> None:
        self._limits = limits
        self._places = places
        self._lock = threading.Lock()
        self._allowed: dict[str, NetworkAllowed] = {}
        self._denied: Counter[tuple[str, str]] = Counter()
        self._total = 0
        self._open = 0
        self._bytes = 0

    def connect(self) -> None:
        """Count one more connection, until `disconnect`.

        Raises:
            CapExceededError: it is one too many. Do not call `disconnect` for it.
        """
        limits = self._limits
        with self._lock:
            if self._total >= limits.max_total_connections:
                raise CapExceededError(
                    f"more than {limits.max_total_connections} connections "
                    "(network.max_total_connections)"
                )
            self._total += 1
            if self._open >= limits.max_connections:
                raise CapExceededError(
                    f"more than {limits.max_connections} connections at once "
                    "(network.max_connections)"
                )
            if not self._places.acquire(blocking=False):
                raise CapExceededError("all functions together have too many connections")
            self._open += 1

    def disconnect(self) -> None:
        with self._lock:
            self._open -= 1
            self._places.release()

    def connected(self, destination: str) -> None:
        self._add(NetworkAllowed(destination=destination, connections=1))

    def failed(self, destination: str, reason: str) -> None:
        """Count a failed connection to `destination`, which is allowed."""
        self._add(NetworkAllowed(destination=destination, failed=1, failure=reason))

    def sent(self, destination: str, count: int) -> None:
        """Count bytes from the function to `destination`. Raises CapExceededError."""
        self._transfer(count)
        self._add(NetworkAllowed(destination=destination, bytes_sent=count))

    def received(self, destination: str, count: int) -> None:
        """Count bytes from `destination` to the function. Raises CapExceededError."""
        self._transfer(count)
        self._add(NetworkAllowed(destination=destination, bytes_received=count))

    def deny(self, destination: str, reason: str) -> None:
        """Count a connection to `destination` that was refused, or ended by a cap."""
        with self._lock:
            key = destination, reason
            if key not in self._denied and len(self._denied) >= MOST_ENTRIES:
                key = _OTHERS, "not listed one by one"
            self._denied[key] += 1

    def stats(self) -> NetworkStats:
        with self._lock:
            return NetworkStats(
                allowed=tuple(self._allowed.values()),
                denied=tuple(
                    NetworkDenied(destination=destination, reason=reason, attempts=attempts)
                    for (destination, reason), attempts in self._denied.items()
                ),
            )

    def _transfer(self, count: int) -> None:
        with self._lock:
            if self._bytes + count > self._limits.max_bytes:
                raise CapExceededError(
                    f"more than {format_size(self._limits.max_bytes)} sent and received "
                    "(network.max_bytes)"
                )
            self._bytes += count

    def _add(self, more: NetworkAllowed) -> None:
        with self._lock:
            destination = more.destination
            if destination not in self._allowed and len(self._allowed) >= MOST_ENTRIES:
                destination = _OTHERS
            entry = self._allowed.get(destination) or NetworkAllowed(destination=destination)
            self._allowed[destination] = NetworkAllowed(
                destination=destination,
                connections=entry.connections + more.connections,
                bytes_sent=entry.bytes_sent + more.bytes_sent,
                bytes_received=entry.bytes_received + more.bytes_received,
                failed=entry.failed + more.failed,
                failure=more.failure or entry.failure,
            )
