"""Requests that a service has taken: it is not ended before they are answered, if that may be."""

from __future__ import annotations

import threading


class Pending:
    """How many there are. Safe to use from many threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._count = 0
        self._closed = False
        # Whether nobody waits for them any more.
        self.given_up = False

    def enter(self) -> bool:
        """One more; False if no more are taken."""
        with self._changed:
            self._count += not self._closed
            return not self._closed

    def leave(self) -> None:
        """One is answered."""
        with self._changed:
            self._count -= 1
            self._changed.notify_all()

    def close(self) -> None:
        """Take no more."""
        with self._changed:
            self._closed = True

    def wait(self, seconds: float) -> None:
        """Wait until all are answered, at most that long."""
        with self._changed:
            self._changed.wait_for(lambda: self.given_up or not self._count, seconds)

    def give_up(self) -> None:
        """Wait no longer."""
        with self._changed:
            self.given_up = True
            self._changed.notify_all()
