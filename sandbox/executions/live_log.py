"""Logs of running executions, for those who follow them live.

The end of an execution's log is kept once, within bounds, for any number of followers: a follower
is a position in it. A follower that is too slow misses entries, and learns how many.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox.models import LogEntry

MOST_ENTRIES: Final = 1000
MOST_BYTES: Final = 256 * 1024


@dataclass(frozen=True, kw_only=True)
class Part:
    """What a follower reads: entries, how many it missed before them, and its next position."""

    entries: tuple[LogEntry, ...]
    missed: int
    position: int


class LiveLog:
    """The end of the log of one attempt at an execution. Safe to use from many threads."""

    def __init__(
        self,
        *,
        attempt: int = 1,
        most_entries: int = MOST_ENTRIES,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        self.attempt = attempt
        self._most_entries = most_entries
        self._most_bytes = most_bytes
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._entries: deque[tuple[LogEntry, int]] = deque()
        self._bytes = 0
        # The position of the first entry that is kept.
        self._first = 0
        self._closed = False

    def add(self, entry: LogEntry) -> None:
        size = len(entry.message) + (len(str(entry.data)) if entry.data else 0)
        with self._lock:  # the condition's own lock, which is faster to enter by itself
            self._entries.append((entry, size))
            self._bytes += size
            while self._bytes > self._most_bytes or len(self._entries) > self._most_entries:
                self._bytes -= self._entries.popleft()[1]
                self._first += 1
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def wake(self) -> None:
        """Make every waiting `read` look at its `stop` again."""
        with self._changed:
            self._changed.notify_all()

    def entries(self) -> list[LogEntry]:
        with self._changed:
            return [entry for entry, _ in self._entries]

    def read(self, position: int, *, stop: Callable[[], bool]) -> Part | None:
        """Wait for entries from `position` (at first 0) on. None at the end, or on `stop`."""
        with self._changed:
            while not self._closed and not stop() and position >= self._end:
                self._changed.wait()
            if stop() or position >= self._end:
                return None
            begin = max(position, self._first)
            entries = tuple(entry for entry, _ in islice(self._entries, begin - self._first, None))
            return Part(entries=entries, missed=begin - position, position=self._end)

    @property
    def _end(self) -> int:
        return self._first + len(self._entries)
