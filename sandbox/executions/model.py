"""Executions: what was asked for, by whom, and what became of it."""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003 - `tables` reads the types of fields
from dataclasses import dataclass
from typing import Any, Final, Literal

from sandbox.call import Trigger  # noqa: TC001 - the same

# `retrying`: it failed, and waits for its next attempt. `dead`: it failed for the last time.
Status = Literal["queued", "running", "retrying", "succeeded", "failed", "cancelled", "dead"]
ENDED: Final[frozenset[Status]] = frozenset({"succeeded", "failed", "cancelled", "dead"})


@dataclass(frozen=True, kw_only=True)
class Execution:
    """One execution on record. Times are seconds since the epoch, sizes bytes.

    `id` is the request id that the function was given. `output` is kept for those that nobody
    waited for, until they are forgotten; `log_tail` is the end of the log, as text lines.
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
    created_at: float
    started_at: float | None = None
    ended_at: float | None = None
    # When a `retrying` one runs again.
    due_at: float | None = None
    queue_ms: float | None = None
    boot_ms: float | None = None
    run_ms: float | None = None
    cpu_ms: float | None = None
    peak_memory_bytes: int | None = None
    cold: bool | None = None
    input_bytes: int = 0
    output_bytes: int = 0
    log_tail: str = ""
    # The response document, where it is kept.
    response: Mapping[str, Any] | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more will become of it."""
        return self.status in ENDED
