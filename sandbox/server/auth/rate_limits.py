"""Limits of each caller: requests in a second, requests at once, and the size of a body.

Requests are counted in memory, by `Caller.id`, over a sliding window. Without authentication all
callers are one, and only the limit on the body holds.
"""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from limits import RateLimitItemPerSecond
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from sandbox.errors import OverloadedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandbox.config.server_settings import CallerLimits
    from sandbox.server.auth.callers import Caller

# Seconds of `Retry-After` when the caller waits for one of its own requests to end.
_RETRY_SOON: Final = 1.0


class Limiter:
    """Holds callers to their limits. `limits` bound the bodies of all callers."""

    def __init__(self, limits: CallerLimits) -> None:
        self._limits = limits
        self._windows = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._running: dict[str, int] = {}
        self._lock = threading.Lock()

    def body(self, caller: Caller) -> int:
        """The largest body, in bytes, that the caller may send."""
        return min(self._limits.body, (caller.limits or self._limits).body)

    @contextmanager
    def admit(self, caller: Caller) -> Iterator[None]:
        """Count one request of the caller for as long as the context lasts.

        Raises:
            OverloadedError: the caller sent too many requests, or has too many under way.
        """
        limits = caller.limits
        if limits is None:
            yield
            return
        # Concurrency first: a request refused for it does not count against the rate.
        self._enter(caller.id, limits.concurrency)
        try:
            self._count(caller.id, limits.rate)
            yield
        finally:
            self._leave(caller.id)

    def running(self, caller: Caller) -> int:
        return self._running.get(caller.id, 0)

    def _enter(self, caller: str, most: int) -> None:
        with self._lock:
            running = self._running.get(caller, 0)
            if running < most:
                self._running[caller] = running + 1
                return
        raise _refusal("requests at once", "concurrency", most, retry_after=_RETRY_SOON)

    def _leave(self, caller: str) -> None:
        with self._lock:
            self._running[caller] -= 1
            if not self._running[caller]:
                del self._running[caller]

    def _count(self, caller: str, rate: int) -> None:
        limit = RateLimitItemPerSecond(rate)
        if not self._windows.hit(limit, caller):
            reset, _ = self._windows.get_window_stats(limit, caller)
            wait = max(reset - time.time(), 0.001)
            raise _refusal("requests in a second", "rate", rate, retry_after=round(wait, 3))


def _refusal(what: str, name: str, most: int, *, retry_after: float) -> OverloadedError:
    return OverloadedError(
        f"over this caller's limit of {most} {what}",
        retry_after=retry_after,
        details={"limit": most, "setting": f"server.limits.{name}"},
    )
