"""Logs of executions that are under way, for whoever wants to see them live.

An execution keeps the end of its log once, within bounds, however many follow it: a follower is no
more than a place in it. One that is too slow misses entries, and is told how many.
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
    """What a follower reads: entries, how many it has missed before them, and its next place."""

    entries: tuple[LogEntry, ...]
    missed: int
    place: int


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
        # The place of the first entry that is still there.
        self._first = 0
        self._closed = False

    def add(self, entry: LogEntry) -> None:
        """Take an entry; the oldest go if there are too many."""
        size = len(entry.message) + (len(str(entry.data)) if entry.data else 0)
        with self._lock:  # the condition's own, entered without a detour
            self._entries.append((entry, size))
            self._bytes += size
            while self._bytes > self._most_bytes or len(self._entries) > self._most_entries:
                self._bytes -= self._entries.popleft()[1]
                self._first += 1
            self._changed.notify_all()

    def close(self) -> None:
        """No entry comes any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def wake(self) -> None:
        """Have every `read` that waits look at its `stop` again."""
        with self._changed:
            self._changed.notify_all()

    def entries(self) -> list[LogEntry]:
        """All that is there."""
        with self._changed:
            return [entry for entry, _ in self._entries]

    def read(self, place: int, *, stop: Callable[[], bool]) -> Part | None:
        """What came from `place` (0 at first) on; waits for it. None at the end, or on `stop`."""
        with self._changed:
            while not self._closed and not stop() and place >= self._end:
                self._changed.wait()
            if stop() or place >= self._end:
                return None
            begin = max(place, self._first)
            entries = tuple(entry for entry, _ in islice(self._entries, begin - self._first, None))
            return Part(entries=entries, missed=begin - place, place=self._end)

    @property
    def _end(self) -> int:
        return self._first + len(self._entries)
