"""What is on record of an execution: the one place that lists its fields."""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003 - `tables` reads the types of fields
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, get_type_hints

from sandbox.call import Trigger  # noqa: TC001 - the same

# `retrying`: it failed, and waits for its next attempt. `dead`: it failed for the last time.
Status = Literal["queued", "running", "retrying", "succeeded", "failed", "cancelled", "dead"]
ENDED: Final[frozenset[Status]] = frozenset({"succeeded", "failed", "cancelled", "dead"})

Timestamp = Annotated[float, "seconds since the epoch"]
Bytes = Annotated[int, "bytes"]


@dataclass(frozen=True, kw_only=True)
class Execution:
    """One execution on record.

    The columns of its table come from these fields, so a change here is a new
    `database.SCHEMA_VERSION`. `id` is the request id that the function was given. `log_tail` is
    the end of the log, as text lines.
    """

    id: str
    function: str
    caller: str
    trigger: Trigger
    status: Status
    version: str | None = None
    code: str | None = None
    message: str | None = None
    attempts: int = 0
    created_at: Timestamp
    started_at: Timestamp | None = None
    ended_at: Timestamp | None = None
    # When a `retrying` one runs again.
    due_at: Timestamp | None = None
    queue_ms: float | None = None
    boot_ms: float | None = None
    run_ms: float | None = None
    cpu_ms: float | None = None
    peak_memory_bytes: Bytes | None = None
    cold: bool | None = None
    input_bytes: Bytes = 0
    output_bytes: Bytes = 0
    log_tail: str = ""
    # The response document of an asynchronous execution.
    response: Mapping[str, Any] | None = None

    @property
    def ended(self) -> bool:
        """Whether its status is final, unless somebody retries a dead one."""
        return self.status in ENDED


# The fields that are times.
TIMES: Final = frozenset(
    name
    for name, kind in get_type_hints(Execution, include_extras=True).items()
    if kind in (Timestamp, Timestamp | None)
)


@dataclass(frozen=True, kw_only=True)
class Bookkeeping:
    """What the servers note of an execution, besides: further columns of the same table."""

    # Nobody waits for it: it is on record from the beginning, and never dropped.
    asynchronous: bool = False
    # How many attempts may follow the first.
    retries: int = 0
    # How often in a row the platform could not run it, which is no attempt.
    waits: int = 0
    # The server that runs it, and how often one took it. What a server writes of an execution
    # counts only while no other server has taken it since.
    owner: str | None = None
    claim: int = 0
    # Whoever runs it is to cancel it.
    cancel_asked: bool = False


@dataclass(frozen=True, kw_only=True)
class ExecutionQuery:
    """Which executions to list, newest first; `before` is the `next` of an earlier page."""

    function: str | None = None
    status: Status | None = None
    caller: str | None = None
    limit: int = 50
    before: str | None = None
