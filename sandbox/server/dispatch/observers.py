"""Observers of executions: metrics, traces, structured logs."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Protocol

from sandbox.errors import InternalError, SandboxError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandbox.call import Call
    from sandbox.executions.model import Execution
    from sandbox.models import FunctionResponse

log = logging.getLogger(__name__)


class Observer(Protocol):
    """Told of every execution, in the thread that runs it.

    Each attempt begins and ends. All but the last end as `retrying`, or as `queued` if the platform
    could not run it. An exception that an observer raises is logged, and changes nothing.
    """

    def started(self, execution: Execution, call: Call) -> None:
        """An attempt begins."""

    def ended(
        self,
        execution: Execution,
        response: FunctionResponse | None,
        error: SandboxError | None,
        call: Call,
    ) -> None:
        """An attempt has ended: with a response, or with an error of the platform."""


class Observers:
    """Tells several observers."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = tuple(observers)

    def started(self, execution: Execution, call: Call) -> None:
        for observer in self._observers:
            try:
                observer.started(execution, call)
            except Exception:  # an observer's failure is not the invocation's
                log.exception("an observer failed")

    def ended(
        self,
        execution: Execution,
        response: FunctionResponse | None,
        error: BaseException | None,
        call: Call,
    ) -> None:
        """An attempt has ended. An error of another kind becomes an `InternalError`."""
        if error is not None and not isinstance(error, SandboxError):
            error = InternalError("a defect of the sandbox")
        for observer in self._observers:
            try:
                observer.ended(execution, response, error, call)
            except Exception:  # as above
                log.exception("an observer failed")
