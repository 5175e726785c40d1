"""Counts the requests that a service has accepted and not answered yet."""

from __future__ import annotations

import threading


class InFlightRequests:
    """The number of requests in flight. Safe to use from many threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._count = 0
        self._closed = False
        # After `give_up`, `wait` returns at once.
        self.given_up = False

    def enter(self) -> bool:
        """Count a request; False after `close`, and then it is not counted."""
        with self._changed:
            self._count += not self._closed
            return not self._closed

    def leave(self) -> None:
        with self._changed:
            self._count -= 1
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._closed = True

    def wait(self, seconds: float) -> None:
        """Wait until all requests are answered, for at most `seconds`, or until `give_up`."""
        with self._changed:
            self._changed.wait_for(lambda: self.given_up or not self._count, seconds)

    def give_up(self) -> None:
        with self._changed:
            self.given_up = True
            self._changed.notify_all()
