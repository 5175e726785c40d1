"""`QueueRunner`: runs one attempt at a queued execution, and records what follows from it."""

from __future__ import annotations

import logging
import random
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Final, TypeVar

from sandbox.cancellation import Cancellation
from sandbox.errors import DatabaseUnavailableError, SandboxError
from sandbox.executions.completion import with_error, with_response
from sandbox.executions.retries import Again, after_failure, not_begun
from sandbox.executions.rows import to_call
from sandbox.server.dispatch.active import Active

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox.executions.model import Execution
    from sandbox.executions.queue import Claimed
    from sandbox.executions.store import ExecutionStore
    from sandbox.models import FunctionResponse
    from sandbox.server.dispatch.active import ActiveExecutions
    from sandbox.server.dispatch.observers import Observers

log = logging.getLogger(__name__)

T = TypeVar("T")

# How long to wait after the database could not be used.
_AWAY_SECONDS: Final = 1.0


class QueueRunner:
    """Runs executions that this server has claimed, by calling `invoke`."""

    def __init__(
        self,
        store: ExecutionStore,
        active: ActiveExecutions,
        observers: Observers,
        *,
        invoke: Callable[[Active], FunctionResponse],
        log_bytes: int,
    ) -> None:
        self._store = store
        self._active = active
        self._observers = observers
        self._invoke = invoke
        self._log_bytes = log_bytes
        self._giving_up = threading.Event()

    def give_up(self) -> None:
        """From now on, do not wait until the database can be used again."""
        self._giving_up.set()

    def run(self, claimed: Claimed) -> None:
        """Run one attempt, and record how it ended before it counts as ended."""
        execution = claimed.execution
        call = to_call(execution, claimed.document)
        active = Active(execution, call, cancellation=Cancellation(), log_bytes=self._log_bytes)
        try:
            self._active.enter(active)
        except SandboxError as refused:
            self._put_back(claimed, refused)
            return
        self._observers.started(execution, call)
        response: FunctionResponse | None = None
        error: Exception | None = None
        ended: Execution | None = None
        try:
            try:
                response = self._invoke(active)
            except SandboxError as failure:
                error = failure
            except Exception as failure:  # a defect, which must not lose the execution
                log.exception("the execution %s could not be run", execution.id)
                error = failure
            ended = self._settle(claimed, active, response, error)
        finally:
            self._active.leave(active)
        if ended is None:
            log.warning("the end of the execution %s could not be recorded", execution.id)
        else:
            self._observers.ended(ended, response, error, call)

    def _put_back(self, claimed: Claimed, refused: SandboxError) -> None:
        again = not_begun(claimed.attempt)
        self._recorded(
            lambda: self._store.queue.again(
                claimed, again, code=refused.code.value, message=refused.message
            )
        )

    def _settle(
        self,
        claimed: Claimed,
        active: Active,
        response: FunctionResponse | None,
        error: Exception | None,
    ) -> Execution | None:
        """Record what follows. None if that is impossible, or another server has recovered it."""
        queue = self._store.queue
        ended = self._ended(active, response, error)
        if ended.status == "succeeded":
            return self._finish(claimed, ended)
        if active.unwanted:
            return self._finish(claimed, replace(ended, status="cancelled"))
        if active.cancellation.cancelled:  # not by a caller: the server stops
            return self._recorded(lambda: queue.give_up(claimed))
        code, message = str(ended.code), str(ended.message)
        follows = after_failure(
            code,
            claimed.attempt,
            platform=response is None,
            retry_after=getattr(error, "retry_after", 0.0),
            chance=random.random(),  # noqa: S311 - spreads load
        )
        if isinstance(follows, Again):
            return self._recorded(lambda: queue.again(claimed, follows, code=code, message=message))
        return self._finish(claimed, replace(ended, status=follows.status))

    def _ended(
        self, active: Active, response: FunctionResponse | None, error: Exception | None
    ) -> Execution:
        now, tail = self._store.clock(), self._store.settings.log_tail
        if response is not None:
            return with_response(active.execution, response, now=now, tail=tail, keep=True)
        failure = error or RuntimeError("neither a response nor an error")
        logs = active.log.entries()
        return with_error(active.execution, failure, now=now, logs=logs, tail=tail)

    def _finish(self, claimed: Claimed, ended: Execution) -> Execution | None:
        queue = self._store.queue
        return self._recorded(lambda: ended if queue.finish(claimed, ended) else None)

    def _recorded(self, write: Callable[[], T]) -> T | None:
        """What `write` returns; it is repeated until the database can be used, or `give_up`."""
        logged = False
        while True:
            try:
                return write()
            except DatabaseUnavailableError as error:
                if not logged:
                    log.warning("the end of an execution cannot be recorded yet: %s", error)
                    logged = True
                if self._giving_up.wait(_AWAY_SECONDS):
                    return None
