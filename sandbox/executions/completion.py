"""What is recorded of an execution that has ended. Pure.

Every failure is `failed` here: others decide whether it is retried, or was a cancellation. The
sandbox has redacted messages and logs already. Only an asynchronous execution keeps its response.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Final

from sandbox.errors import Code, SandboxError
from sandbox.executions.log_tail import log_tail, storable
from sandbox.executions.model import Execution
from sandbox.models import Stats, dump_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandbox.executions.model import Status
    from sandbox.models import FunctionResponse, LogEntry

# What is taken over from a response's figures.
_FIGURES: Final = {field.name for field in fields(Stats)} & {
    field.name for field in fields(Execution)
}
# How much of an error's message is kept, in characters.
_MESSAGE: Final = 2048


def with_response(
    execution: Execution, response: FunctionResponse, *, now: float, tail: int, keep: bool = False
) -> Execution:
    """The execution, ended by this response. `tail` is the size of the log kept, in bytes."""
    error = response.error
    status: Status = "succeeded"
    output_bytes = 0
    if error is not None:
        status = "failed"
    elif response.output is not None:
        output_bytes = len(dump_json(response.output).encode())
    return replace(
        execution,
        **{name: getattr(response.stats, name) for name in _FIGURES},
        status=status,
        code=None if error is None else storable(str(error.code)),
        message=None if error is None else storable(error.message[:_MESSAGE]),
        ended_at=now,
        due_at=None,
        output_bytes=output_bytes,
        log_tail=log_tail(response.logs, most=tail),
        response=response.to_dict() if keep else None,
    )


def with_error(
    execution: Execution,
    error: BaseException,
    *,
    now: float,
    logs: Sequence[LogEntry],
    tail: int,
) -> Execution:
    """The execution, ended by a failure of the platform. Defects of ours are not shown."""
    code, message = Code.INTERNAL, "a defect of the sandbox; its log has the trace"
    if isinstance(error, SandboxError) and error.code is not Code.INTERNAL:
        code, message = error.code, error.message
    return replace(
        execution,
        status="failed",
        code=code.value,
        message=storable(message[:_MESSAGE]),
        ended_at=now,
        due_at=None,
        log_tail=log_tail(logs, most=tail),
    )
