"""The executions that are running in this process."""

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
    """An execution that is running. Its log keeps the last `log_bytes` bytes."""

    def __init__(
        self, execution: Execution, call: Call, *, cancellation: Cancellation, log_bytes: int
    ) -> None:
        self.execution = execution
        self.call = call
        self.cancellation = cancellation
        self.log = LiveLog(attempt=execution.attempts, most_bytes=log_bytes)
        # Whether somebody has cancelled it: a server that stops cancels executions too.
        self.unwanted = False


class ActiveExecutions:
    """The running executions of a dispatcher. Safe to use from many threads.

    Executions of the dispatcher `before`, which this one replaces, are counted and found too; the
    other dispatcher waits for their ends.
    """

    def __init__(self, before: ActiveExecutions | None = None) -> None:
        self._changed: threading.Condition = (
            threading.Condition() if before is None else before._changed
        )
        # By id, including those of replaced dispatchers.
        self._all: dict[str, Active] = {} if before is None else before._all
        self._own: dict[str, Active] = {}
        self._closed = False

    def __len__(self) -> int:
        return len(self._all)

    def get(self, id: str) -> Active | None:  # noqa: A002 - the field's name
        return self._all.get(id)

    def own(self) -> list[Active]:
        """The executions of this dispatcher alone."""
        with self._changed:
            return list(self._own.values())

    def check_open(self) -> None:
        if self._closed:
            raise OverloadedError("the server is stopping", retry_after=1.0)

    def enter(self, active: Active) -> None:
        """Add an execution that begins.

        Raises:
            OverloadedError: after `close`.
            InvalidRequestError: an execution of that id is running.
        """
        id = active.execution.id  # noqa: A001 - the field's name
        with self._changed:
            self.check_open()
            if id in self._all:
                raise InvalidRequestError("an execution of that id is running")
            self._all[id] = self._own[id] = active

    def leave(self, active: Active) -> None:
        """Remove an execution that has ended. It is on record by now: its followers look there."""
        with self._changed:
            del self._all[active.execution.id], self._own[active.execution.id]
            self._changed.notify_all()
        active.log.close()

    def close(self) -> None:
        with self._changed:
            self._closed = True

    def wait(self, seconds: float) -> list[Active]:
        """Wait until this dispatcher's executions have ended; those left after that time."""
        with self._changed:
            self._changed.wait_for(lambda: not self._own, seconds)
            return list(self._own.values())
