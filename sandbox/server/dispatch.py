"""`Dispatcher`: the one way in. HTTP, schedules, webhooks and the queue all invoke through it.

It puts every execution on record, keeps its log for whoever follows, and tells observers. Nothing
here knows of HTTP.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from sandbox.cancellation import Cancellation
from sandbox.errors import (
    DatabaseUnavailableError,
    InternalError,
    InvalidRequestError,
    OverloadedError,
    SandboxError,
)
from sandbox.executions.ending import with_error, with_response
from sandbox.executions.follow import Follower
from sandbox.executions.live import MOST_BYTES, LiveLog
from sandbox.executions.model import Execution
from sandbox.executions.retries import Again, after_failure
from sandbox.executions.rows import input_bytes, to_call
from sandbox.executions.tail import log_tail
from sandbox.executions.workers import Workers
from sandbox.executor import new_request_id

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sandbox.executions.model import Call, Status
    from sandbox.executions.queries import Page
    from sandbox.executions.queue import Claimed
    from sandbox.executions.store import ExecutionStore
    from sandbox.facade import Sandbox
    from sandbox.models import FunctionResponse, LogEntry
    from sandbox.settings import Settings

log = logging.getLogger(__name__)

T = TypeVar("T")

# After `drain` has cancelled what would not end, how long it may take to be killed.
_KILL_SECONDS: Final = 15.0
_AWAY_SECONDS: Final = 1.0
_STOPPING: Final = "the server is stopping"


class Observer(Protocol):
    """Metrics, traces, structured logs: told of every execution, in the thread that runs it.

    One that has several attempts begins and ends with each; `retrying` is how all but the last
    end. What an observer raises is logged, and changes nothing.
    """

    def started(self, execution: Execution, call: Call) -> None:
        """It begins to run."""

    def ended(
        self,
        execution: Execution,
        response: FunctionResponse | None,
        error: SandboxError | None,
        call: Call,
    ) -> None:
        """It has ended: with a response, or with what the platform failed for."""


class _Active:
    """An execution that runs here."""

    def __init__(
        self,
        execution: Execution,
        call: Call,
        *,
        cancellation: Cancellation,
        log_bytes: int,
    ) -> None:
        self.execution = execution
        self.call = call
        self.cancellation = cancellation
        self.log = LiveLog(most_bytes=log_bytes)
        # Whether somebody wants its end, and not only the server its own.
        self.unwanted = False


class Dispatcher:
    """Invokes functions and keeps the record. Safe to use from many threads.

    `start` begins with the queue; `drain` ends everything, the store too. Invocations that
    somebody waits for work without `start`.
    """

    def __init__(
        self,
        sandbox: Sandbox,
        settings: Settings,
        *,
        store: ExecutionStore,
        observers: Sequence[Observer] = (),
    ) -> None:
        self._sandbox = sandbox
        self._store = store
        self._observers = tuple(observers)
        self._log_tail = settings.server.executions.log_tail
        self._log_bytes = max(MOST_BYTES, self._log_tail)
        self._largest = settings.limits.request
        self._changed = threading.Condition()
        self._active: dict[str, _Active] = {}
        self._stopping = False
        self._giving_up = threading.Event()
        self._workers = Workers(store, run=self._run_claimed, cancel=self._cancel_active)

    def start(self) -> None:
        """Begin to run what is in the queue, and to look after the record."""
        self._workers.start()

    @property
    def running(self) -> int:
        """How many executions run here."""
        return len(self._active)

    def invoke(
        self,
        call: Call,
        *,
        on_log: Callable[[LogEntry], None] | None = None,
        cancellation: Cancellation | None = None,
    ) -> FunctionResponse:
        """Run a function once and return its response; recorded behind it.

        `on_log` is called with each log entry as it comes, from this thread. What could not even
        begin, since there is no such function, is not recorded.

        Raises:
            SandboxError: the platform could not serve; see `Sandbox.invoke`.
        """
        self._sandbox.function(call.function)
        now = self._store.clock()
        execution = Execution(
            id=call.request_id or new_request_id(),
            function=call.function,
            caller=call.caller,
            trigger=call.trigger,
            status="running",
            attempts=1,
            created_at=now,
            started_at=now,
            input_bytes=input_bytes(call),
        )
        active = self._enter(execution, call, cancellation or Cancellation())
        self._store.record(execution)
        self._tell_started(active)
        try:
            response = self._invoke(active, on_log)
        except BaseException as error:
            self._end(active, self._failed(active, error), error=error)
            raise
        self._end(active, self._answered(active, response), response=response)
        return response

    def submit(self, call: Call) -> Execution:
        """Put a call into the queue; it is on record when this returns, and runs some time later.

        Raises:
            FunctionNotFoundError, InvalidManifestError: see `Sandbox.invoke`.
            InvalidRequestError: its input is too large, or its id is taken.
            OverloadedError: the queue is full.
            DatabaseUnavailableError: it could not be put on record.
        """
        function = self._sandbox.function(call.function)
        if self._stopping:
            raise OverloadedError(_STOPPING, retry_after=_AWAY_SECONDS)
        execution = Execution(
            id=call.request_id or new_request_id(),
            function=call.function,
            caller=call.caller,
            trigger=call.trigger,
            status="queued",
            created_at=self._store.clock(),
            input_bytes=input_bytes(call),
        )
        if execution.input_bytes > self._largest:
            raise InvalidRequestError(
                f"the input has {execution.input_bytes} bytes, and {self._largest} are allowed"
            )
        self._store.queue.put(execution, call, retries=function.manifest.retries)
        self._workers.wake()
        return execution

    def get(self, id: str) -> Execution | None:  # noqa: A002 - the field's name
        """The execution of that id as it is now, also one that runs; None if nobody knows it.

        Raises:
            DatabaseUnavailableError: the database had to be asked, and cannot be used.
        """
        active = self._active.get(id)
        if active is None:
            return self._store.get(id)
        tail = log_tail(active.log.entries(), most=self._log_tail)
        return replace(active.execution, log_tail=tail)

    def list(
        self,
        *,
        function: str | None = None,
        status: Status | None = None,
        caller: str | None = None,
        limit: int = 50,
        before: str | None = None,
    ) -> Page:
        """Executions, newest first, without their responses; `before` is a page's `next`.

        Raises:
            InvalidRequestError: `before` is none that a page had.
            DatabaseUnavailableError: the database cannot be used.
        """
        return self._store.list(
            function=function, status=status, caller=caller, limit=limit, before=before
        )

    def cancel(self, id: str) -> bool:  # noqa: A002 - the field's name
        """End an execution: kill it if it runs, here or elsewhere; never run it if it waits.

        False if it has ended, or nobody knows it.

        Raises:
            DatabaseUnavailableError: the database had to be asked, and cannot be used.
        """
        if self._cancel_active(id):
            return True
        queue = self._store.queue
        return queue.cancel(id, message="cancelled while it waited") or queue.ask_cancel(id)

    def follow(self, id: str) -> Follower:  # noqa: A002 - the field's name
        """The log of an execution so far, then live, at last the ended execution."""
        return Follower(self, id)

    def retry(self, id: str) -> Execution:  # noqa: A002 - the field's name
        """Have an execution that is `dead` begin anew.

        Raises:
            InvalidRequestError: it is not dead.
            OverloadedError: the server is stopping.
            DatabaseUnavailableError: the database cannot be used.
        """
        if self._stopping:
            raise OverloadedError(_STOPPING, retry_after=_AWAY_SECONDS)
        if not self._store.queue.retry(id):
            raise InvalidRequestError("only an execution that is dead can be retried")
        self._workers.wake()
        execution = self.get(id)
        if execution is None:
            raise InvalidRequestError("the execution was forgotten meanwhile")
        return execution

    def live_log(self, id: str) -> LiveLog | None:  # noqa: A002 - the field's name
        """The log of an execution that runs here; see `follow`."""
        active = self._active.get(id)
        return None if active is None else active.log

    def drain(self, seconds: float) -> None:
        """Take nothing more, let what runs finish for that long, end the rest, write everything.

        What was still queued stays so, for the next server. Closes the store.
        """
        deadline = time.monotonic() + seconds
        with self._changed:
            self._stopping = True
        self._workers.stop()
        with self._changed:
            self._changed.wait_for(lambda: not self._active, max(0.0, deadline - time.monotonic()))
            left = list(self._active.values())
        self._giving_up.set()
        for active in left:
            active.cancellation.cancel()
        with self._changed:
            self._changed.wait_for(lambda: not self._active, _KILL_SECONDS)
        self._workers.close()
        self._store.close()

    def _enter(self, execution: Execution, call: Call, cancellation: Cancellation) -> _Active:
        active = _Active(execution, call, cancellation=cancellation, log_bytes=self._log_bytes)
        with self._changed:
            if self._stopping:
                raise OverloadedError(_STOPPING, retry_after=_AWAY_SECONDS)
            if execution.id in self._active:
                raise InvalidRequestError("an execution of that id is running")
            self._active[execution.id] = active
        return active

    def _leave(self, active: _Active) -> None:
        """It runs no more. How it ended is to be on record by now: who follows it looks there."""
        with self._changed:
            del self._active[active.execution.id]
            self._changed.notify_all()
        active.log.close()

    def _invoke(
        self, active: _Active, on_log: Callable[[LogEntry], None] | None = None
    ) -> FunctionResponse:
        call = active.call
        hear = active.log.add

        def tell(entry: LogEntry) -> None:
            hear(entry)
            if on_log is not None:
                on_log(entry)

        return self._sandbox.invoke(
            call.function,
            call.input,
            auth=call.auth,
            files=call.files,
            timeout=call.timeout,
            request_id=active.execution.id,
            on_log=tell,
            cancellation=active.cancellation,
        )

    def _answered(
        self, active: _Active, response: FunctionResponse, *, keep: bool = False
    ) -> Execution:
        now = self._store.clock()
        return with_response(active.execution, response, now=now, tail=self._log_tail, keep=keep)

    def _failed(self, active: _Active, error: BaseException) -> Execution:
        now, logs = self._store.clock(), active.log.entries()
        return with_error(active.execution, error, now=now, logs=logs, tail=self._log_tail)

    def _end(
        self,
        active: _Active,
        ended: Execution,
        *,
        response: FunctionResponse | None = None,
        error: BaseException | None = None,
    ) -> None:
        """Record how one ended that somebody waits for."""
        self._store.record(ended)
        self._leave(active)
        self._tell_ended(ended, active, response, error)

    def _run_claimed(self, claimed: Claimed) -> None:
        """Run one of the queue, and put on record what became of it before it is let go."""
        execution = claimed.execution
        call = to_call(execution, claimed.document)
        active = self._enter(execution, call, Cancellation())
        self._tell_started(active)
        response: FunctionResponse | None = None
        error: Exception | None = None
        try:
            response = self._invoke(active)
        except SandboxError as failure:
            error = failure
        except Exception as failure:  # a defect, which must not take the execution with it
            log.exception("the execution %s could not be run", execution.id)
            error = failure
        ended: Execution | None = None
        try:
            ended = self._settle(claimed, active, response, error)
        finally:
            self._leave(active)
        if ended is None:
            log.warning("the execution %s was taken for lost, and went on elsewhere", execution.id)
        else:
            self._tell_ended(ended, active, response, error)

    def _settle(
        self,
        claimed: Claimed,
        active: _Active,
        response: FunctionResponse | None,
        error: Exception | None,
    ) -> Execution | None:
        """Put what follows on record; None if that cannot be done, or it is not ours any more."""
        queue = self._store.queue
        if response is not None:
            ended = self._answered(active, response, keep=True)
        elif error is not None:
            ended = self._failed(active, error)
        if ended.status != "succeeded" and active.unwanted:
            ended = replace(ended, status="cancelled")
        elif ended.status == "cancelled":
            # Nobody asked for it: the server stops.
            return self._recorded(lambda: queue.give_up(claimed))
        elif ended.status == "failed":
            code, message = str(ended.code), str(ended.message)
            follows = after_failure(
                code,
                claimed.attempt,
                platform=error is not None,
                retry_after=getattr(error, "retry_after", 0.0),
                chance=random.random(),  # noqa: S311 - spreads load
            )
            if isinstance(follows, Again):
                again = follows
                return self._recorded(
                    lambda: queue.again(claimed, again, code=code, message=message)
                )
            ended = replace(ended, status=follows.status)
        return self._recorded(lambda: ended if queue.finish(claimed, ended) else None)

    def _recorded(self, write: Callable[[], T]) -> T | None:
        """What `write` returns; tried until the database can be used, or this server gives up."""
        while True:
            try:
                return write()
            except DatabaseUnavailableError as error:
                log.warning("what became of an execution waits for the database: %s", error)
                if self._giving_up.wait(_AWAY_SECONDS):
                    return None

    def _cancel_active(self, id: str) -> bool:  # noqa: A002 - the field's name
        active = self._active.get(id)
        if active is None:
            return False
        active.unwanted = True
        active.cancellation.cancel()
        return True

    def _tell_started(self, active: _Active) -> None:
        for observer in self._observers:
            try:
                observer.started(active.execution, active.call)
            except Exception:  # an observer's failure is not the invocation's
                log.exception("an observer failed")

    def _tell_ended(
        self,
        ended: Execution,
        active: _Active,
        response: FunctionResponse | None,
        error: BaseException | None,
    ) -> None:
        if error is not None and not isinstance(error, SandboxError):
            error = InternalError("a defect of the sandbox")
        for observer in self._observers:
            try:
                observer.ended(ended, response, error, active.call)
            except Exception:  # as above
                log.exception("an observer failed")
