"""A clock that stands still until it is set."""

from __future__ import annotations

NOW = 1_800_000_000.0


class Clock:
    """Gives `now`, seconds since whenever the test likes."""

    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now
