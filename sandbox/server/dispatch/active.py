"""The executions that run in this process."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from sandbox.errors import InvalidRequestError, OverloadedError
from sandbox.executions.live_log import LiveLog

if TYPE_CHECKING:
    from sandbox.call import Call
    from sandbox.cancellation import Cancellation
    from sandbox.executions.model import Execution


class Active:
    """One of them. Its log holds the last `log_bytes` bytes or more."""

    def __init__(
        self, execution: Execution, call: Call, *, cancellation: Cancellation, log_bytes: int
    ) -> None:
        self.execution = execution
        self.call = call
        self.cancellation = cancellation
        self.log = LiveLog(attempt=execution.attempts, most_bytes=log_bytes)
        # Whether somebody wants it to end, and not only the server, which stops.
        self.unwanted = False


class ActiveExecutions:
    """Those of one dispatcher. Safe to use from many threads.

    What still runs at the dispatcher `before`, which this one replaces, is counted and found too;
    that one waits for them.
    """

    def __init__(self, before: ActiveExecutions | None = None) -> None:
        self._changed: threading.Condition = (
            threading.Condition() if before is None else before._changed
        )
        # By id, of all dispatchers in a row of replacements.
        self._all: dict[str, Active] = {} if before is None else before._all
        self._own: dict[str, Active] = {}
        self._closed = False

    def __len__(self) -> int:
        return len(self._all)

    def get(self, id: str) -> Active | None:  # noqa: A002 - the field's name
        """The one of that id, if it runs."""
        return self._all.get(id)

    def own(self) -> list[Active]:
        """Those of this dispatcher that run now."""
        with self._changed:
            return list(self._own.values())

    def check_open(self) -> None:
        """Raise OverloadedError if nothing may begin any more."""
        if self._closed:
            raise OverloadedError("the server is stopping", retry_after=1.0)

    def enter(self, active: Active) -> None:
        """It begins.

        Raises:
            OverloadedError: nothing may begin any more.
            InvalidRequestError: one of that id runs.
        """
        id = active.execution.id  # noqa: A001 - the field's name
        with self._changed:
            self.check_open()
            if id in self._all:
                raise InvalidRequestError("an execution of that id is running")
            self._all[id] = self._own[id] = active

    def leave(self, active: Active) -> None:
        """It runs no more. How it ended is to be on record by now: who follows it looks there."""
        with self._changed:
            del self._all[active.execution.id], self._own[active.execution.id]
            self._changed.notify_all()
        active.log.close()

    def close(self) -> None:
        """Let nothing begin any more."""
        with self._changed:
            self._closed = True

    def wait(self, seconds: float) -> list[Active]:
        """Wait until none of its own runs, at most that long; those that still do."""
        with self._changed:
            self._changed.wait_for(lambda: not self._own, seconds)
            return list(self._own.values())
