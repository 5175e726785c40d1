"""`Dispatcher`: HTTP, schedules, webhooks, the queue and the local socket all invoke through it.

It records every execution, keeps its log for followers, and tells observers. It knows nothing of
HTTP.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from sandbox.cancellation import Cancellation
from sandbox.engine.steps import run_steps
from sandbox.errors import InvalidRequestError
from sandbox.executions.completion import with_error, with_response
from sandbox.executions.live_log import MOST_BYTES, LiveLog
from sandbox.executions.log_follower import Follower
from sandbox.executions.log_tail import log_tail
from sandbox.executions.rows import new_execution
from sandbox.executions.transitions import ask_cancel, cancel_waiting, retry
from sandbox.executions.workers import Workers
from sandbox.server.dispatch.active import Active, ActiveExecutions
from sandbox.server.dispatch.observers import Observer, Observers
from sandbox.server.dispatch.queue_runner import QueueRunner

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sandbox.call import Call
    from sandbox.config.settings import Settings
    from sandbox.engine.steps import Steps
    from sandbox.executions.model import Execution, ExecutionQuery
    from sandbox.executions.queries import Page
    from sandbox.executions.store import ExecutionStore
    from sandbox.models import FunctionResponse, LogEntry
    from sandbox.sandbox import Sandbox

__all__ = ["Dispatcher", "Observer"]

# How long executions that `drain` has cancelled may take to end, in seconds.
_KILL_SECONDS: Final = 15.0


class Dispatcher:
    """Invokes functions and keeps the record. Safe to use from many threads.

    `start` begins with the queue; `invoke` works without it. `drain` ends everything, the store
    too. Executions of the dispatcher `before`, which this one replaces, are counted, found and
    cancelled here too; the other dispatcher waits for their ends.
    """

    def __init__(
        self,
        sandbox: Sandbox,
        settings: Settings,
        *,
        store: ExecutionStore,
        observers: Sequence[Observer] = (),
        before: Dispatcher | None = None,
    ) -> None:
        self._sandbox = sandbox
        self._store = store
        self._log_tail = settings.server.executions.log_tail
        self._log_bytes = max(MOST_BYTES, self._log_tail)
        self._largest = settings.limits.request
        self._observers = Observers(observers)
        self._active: ActiveExecutions = ActiveExecutions(before._active if before else None)
        self._queue_runner = QueueRunner(
            store,
            self._active,
            self._observers,
            invoke=lambda active: run_steps(self._steps(active)),
            log_bytes=self._log_bytes,
        )
        self._workers = Workers(store, run=self._queue_runner.run, cancel=self._cancel_active)

    def start(self) -> None:
        """Begin to run queued executions, and to maintain the record."""
        self._workers.start()

    @property
    def running(self) -> int:
        return len(self._active)

    @property
    def queued(self) -> int:
        """How many executions wait in the queue, which all servers with this database share.

        Raises:
            DatabaseUnavailableError: the database cannot be used.
        """
        return self._store.queue.waiting()

    @property
    def dropped(self) -> int:
        """How many executions could not be recorded."""
        return self._store.dropped

    @property
    def failing(self) -> bool:
        return self._store.failing

    def invoke(
        self,
        call: Call,
        *,
        on_log: Callable[[LogEntry], None] | None = None,
        cancellation: Cancellation | None = None,
    ) -> FunctionResponse:
        """Run a function once and return its response; its execution is recorded behind it.

        `on_log` is called with each log entry as it comes, from this thread. A call for a function
        that does not exist is not recorded.

        Raises:
            SandboxError: the platform could not serve; see `Sandbox.invoke`.
        """
        return run_steps(self.steps(call, on_log=on_log, cancellation=cancellation))

    def steps(
        self,
        call: Call,
        *,
        on_log: Callable[[LogEntry], None] | None = None,
        cancellation: Cancellation | None = None,
    ) -> Steps[FunctionResponse]:
        """An invocation for `run_steps`, or for an event loop; else the same as `invoke`."""
        execution = new_execution(call, status="running", now=self._store.clock())
        active = Active(
            execution,
            replace(call, request_id=execution.id),
            cancellation=cancellation or Cancellation(),
            log_bytes=self._log_bytes,
        )
        steps = self._steps(active, on_log)
        self._active.enter(active)
        self._store.record(execution)
        self._observers.started(execution, call)
        try:
            response = yield from steps
        except BaseException as error:
            now, logs = self._store.clock(), active.log.entries()
            failed = with_error(execution, error, now=now, logs=logs, tail=self._log_tail)
            self._end(active, failed, error=error)
            raise
        ended = with_response(execution, response, now=self._store.clock(), tail=self._log_tail)
        if not response.success and active.cancellation.cancelled:
            ended = replace(ended, status="cancelled")
        self._end(active, ended, response=response)
        return response

    def submit(self, call: Call) -> Execution:
        """Put a call into the queue. When this returns, its execution is on record, to run later.

        Raises:
            FunctionNotFoundError, InvalidManifestError: see `Sandbox.invoke`.
            InvalidRequestError: its input is too large, or its id is taken.
            OverloadedError: the queue is full, or the server is stopping.
            DatabaseUnavailableError: it could not be recorded.
        """
        function = self._sandbox.function(call.function)
        self._active.check_open()
        execution = new_execution(call, status="queued", now=self._store.clock())
        if execution.input_bytes > self._largest:
            raise InvalidRequestError(
                f"the input has {execution.input_bytes} bytes, and {self._largest} are allowed"
            )
        self._store.queue.put(execution, call, retries=function.manifest.retries)
        self._workers.wake()
        return execution

    def get(self, id: str) -> Execution | None:  # noqa: A002 - the field's name
        """The execution of that id as it is now, running or not; None if there is none.

        Raises:
            DatabaseUnavailableError: the database had to be asked, and cannot be used.
        """
        active = self._active.get(id)
        if active is None:
            return self._store.get(id)
        tail = log_tail(active.log.entries(), most=self._log_tail)
        return replace(active.execution, log_tail=tail)

    def list(self, wanted: ExecutionQuery) -> Page:
        """The executions that are wanted, without their responses.

        Raises:
            InvalidRequestError: `before` was the `next` of no page.
            DatabaseUnavailableError: the database cannot be used.
        """
        return self._store.list(wanted)

    def cancel(self, id: str) -> bool:  # noqa: A002 - the field's name
        """End an execution: one that waits never runs; one that runs, here or elsewhere, is killed.

        Returns False if it has ended, or there is none of that id.

        Raises:
            DatabaseUnavailableError: the database had to be asked, and cannot be used.
        """
        if self._cancel_active(id):
            return True
        database = self._store.database
        return cancel_waiting(database, id, now=self._store.clock()) or ask_cancel(database, id)

    def follow(self, id: str) -> Follower:  # noqa: A002 - the field's name
        return Follower(self, id)

    def retry(self, id: str) -> Execution:  # noqa: A002 - the field's name
        """Start a `dead` execution anew.

        Raises:
            InvalidRequestError: it is not dead.
            OverloadedError: the server is stopping.
            DatabaseUnavailableError: the database cannot be used.
        """
        self._active.check_open()
        if not retry(self._store.database, id, now=self._store.clock()):
            raise InvalidRequestError("only an execution that is dead can be retried")
        self._workers.wake()
        execution = self.get(id)
        if execution is None:
            raise InvalidRequestError("the execution was forgotten meanwhile")
        return execution

    def live_log(self, id: str) -> LiveLog | None:  # noqa: A002 - the field's name
        """The log of an execution that runs here, for `Follower`."""
        active = self._active.get(id)
        return None if active is None else active.log

    def cancel_all(self) -> None:
        """Kill the executions of this dispatcher."""
        for active in self._active.own():
            active.cancellation.cancel()

    def pause(self) -> None:
        """Claim nothing more from the queue; `invoke` still works."""
        self._workers.stop()

    def drain(self, seconds: float) -> None:
        """Begin nothing more, give executions that time to end, kill the rest, close the store.

        Queued executions stay in the queue, for the next server.
        """
        deadline = time.monotonic() + seconds
        self._active.close()
        self._workers.stop()
        left = self._active.wait(max(0.0, deadline - time.monotonic()))
        self._queue_runner.give_up()
        for active in left:
            active.cancellation.cancel()
        stuck = self._active.wait(_KILL_SECONDS)
        self._workers.close(wait=not stuck)
        self._store.close()

    def _steps(
        self, active: Active, on_log: Callable[[LogEntry], None] | None = None
    ) -> Steps[FunctionResponse]:
        keep = active.log.add

        def tell(entry: LogEntry) -> None:
            keep(entry)
            if on_log is not None:
                on_log(entry)

        return self._sandbox.steps(active.call, on_log=tell, cancellation=active.cancellation)

    def _end(
        self,
        active: Active,
        ended: Execution,
        *,
        response: FunctionResponse | None = None,
        error: BaseException | None = None,
    ) -> None:
        self._store.record(ended)
        self._active.leave(active)
        self._observers.ended(ended, response, error, active.call)

    def _cancel_active(self, id: str) -> bool:  # noqa: A002 - the field's name
        active = self._active.get(id)
        if active is None:
            return False
        active.unwanted = True
        active.cancellation.cancel()
        return True
