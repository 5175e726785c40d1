"""`Follower`: the log of an execution as it comes, then the execution as it ended."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Final, Protocol, Self

from sandbox.executions.log_tail import tail_entries
from sandbox.models import LogEntry

if TYPE_CHECKING:
    from types import TracebackType

    from sandbox.executions.live_log import LiveLog
    from sandbox.executions.model import Execution

# How often to look whether an execution has begun here, or ended elsewhere.
_POLL_SECONDS: Final = 0.25


class ExecutionSource(Protocol):
    """Finds executions and their logs."""

    def live_log(self, id: str) -> LiveLog | None:  # noqa: A002 - the field's name
        """The log of an execution that runs here, else None."""

    def get(self, id: str) -> Execution | None:  # noqa: A002 - the same
        """The execution as it is now; None if nobody knows it."""


class Follower:
    """Yields the log so far, then each entry as it comes, and at last the ended execution.

    It follows an execution through all its attempts. The log of an execution that runs at another
    server comes when it has ended. An unknown id yields nothing. `close` ends it from any thread.

    Raises:
        DatabaseUnavailableError: from `next`, where the database had to be asked.
    """

    def __init__(self, source: ExecutionSource, id: str) -> None:  # noqa: A002 - the field's name
        self._source = source
        self._id = id
        self._closed = threading.Event()
        self._log: LiveLog | None = None
        self._position = 0
        # The last attempt whose log was followed live.
        self._attempt = 0
        # No more than a `LiveLog` keeps.
        self._ready: deque[LogEntry | Execution] = deque()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> LogEntry | Execution:
        while not self._closed.is_set():
            if self._ready:
                item = self._ready.popleft()
                if not isinstance(item, LogEntry):
                    self._closed.set()
                return item
            if self._log is None:
                self._look()
            else:
                self._read(self._log)
        raise StopIteration

    def _read(self, log: LiveLog) -> None:
        part = log.read(self._position, stop=self._closed.is_set)
        if part is None:
            self._log = None
            return
        self._position = part.position
        self._attempt = log.attempt
        if part.missed:
            lines = "entry was" if part.missed == 1 else "entries were"
            missed = (
                f"{part.missed} log {lines} left out here: they came faster than they were read"
            )
            self._ready.append(LogEntry(level="warn", message=missed))
        self._ready.extend(part.entries)

    def _look(self) -> None:
        """Find its log here; else find out whether it has ended."""
        self._log, self._position = self._source.live_log(self._id), 0
        if self._log is not None:
            return
        execution = self._source.get(self._id)
        if execution is None:
            self._closed.set()
        elif execution.ended:
            if self._attempt != execution.attempts:
                self._ready.extend(tail_entries(execution.log_tail))
            self._ready.append(execution)
        else:
            self._closed.wait(_POLL_SECONDS)

    def close(self) -> None:
        """Stop. A `next` that waits in another thread ends at once."""
        self._closed.set()
        log = self._log
        if log is not None:
            log.wake()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
