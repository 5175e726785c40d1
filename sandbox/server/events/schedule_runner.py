"""`ScheduleRunner`: starts the due run of a schedule, once, even after a crash or a delay.

Only the latest due run starts; it stands for all runs before it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from sandbox.call import Call
from sandbox.errors import DatabaseUnavailableError, OverloadedError, SandboxError
from sandbox.server.events.run_times import latest_run, next_run
from sandbox.server.events.schedule_store import execution_id

if TYPE_CHECKING:
    from sandbox.config.server_settings import ScheduleSettings
    from sandbox.executions.model import Execution
    from sandbox.functions.manifest import Schedule
    from sandbox.server.events.event_config import ScheduleConfig
    from sandbox.server.events.schedule_store import ScheduleStore

log = logging.getLogger(__name__)

# Seconds. A run that is late by less is not missed; the machine was only busy.
GRACE: Final = 30.0

Submit = Callable[[Call], "Execution"]
Find = Callable[[str], "Execution | None"]


@dataclass(eq=False, kw_only=True)
class ScheduleEntry:
    """A schedule on this server. Only its own check changes it, and checks never overlap.

    `added_later` is true for a schedule that a reload added. `checked_until` is the time of the
    last check, None before the first: earlier runs no longer start. `next_check` is the time of
    the next. Times are in seconds since the epoch.
    """

    function: str
    schedule: Schedule
    config: ScheduleConfig
    added_later: bool
    checked_until: float | None = None
    next_check: float | None = None

    @property
    def names(self) -> tuple[str, str]:
        return self.function, self.schedule.name


class ScheduleRunner:
    """Puts runs into the queue with `submit`; `find` looks up an execution by its id."""

    def __init__(
        self,
        settings: ScheduleSettings,
        store: ScheduleStore,
        *,
        submit: Submit,
        find: Find,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._submit = submit
        self._find = find
        self._clock = clock
        # Seconds for which a run can start late, if it was missed while no server ran.
        self._missed_within = settings.missed_within if settings.missed == "once" else 0.0

    def start_due_run(self, entry: ScheduleEntry) -> float | None:
        """Start the latest due run, if any. Returns the next run's time; None if there is none.

        Raises:
            OverloadedError, DatabaseUnavailableError: call it again soon.
        """
        now = self._clock()
        schedule = entry.schedule
        once = schedule.type == "one_time"
        state = self._store.find_or_create(*entry.names, last_run=0.0 if once else now)
        if entry.checked_until is None:
            has_missed_nothing = entry.added_later and not once
            entry.checked_until = now if has_missed_nothing else now - self._missed_within
        oldest = now - max(GRACE, self._missed_within)
        if not state.sent:
            if state.last_run > oldest:
                self._send(entry, state.last_run)
            self._store.mark_sent(*entry.names, state.last_run)
        run_at = latest_run(schedule, max(state.last_run, entry.checked_until, oldest), now)
        if run_at is not None:
            self._start(entry, run_at, state.execution)
        entry.checked_until = now
        return next_run(schedule, now)

    def _start(self, entry: ScheduleEntry, run_at: float, previous: str | None) -> None:
        names = entry.names
        if not entry.config.may_overlap and previous is not None and self._is_under_way(previous):
            if self._store.claim(*names, run_at, execution=None):
                log.warning("%s: skipped a run of %s: the one before still runs", *names)
            return
        if self._store.claim(*names, run_at, execution=execution_id(*names, run_at)):
            self._send(entry, run_at)
            self._store.mark_sent(*names, run_at)

    def _is_under_way(self, execution: str) -> bool:
        found = self._find(execution)
        return found is not None and not found.ended

    def _send(self, entry: ScheduleEntry, run_at: float) -> None:
        function, name = entry.names
        moment = datetime.fromtimestamp(run_at, UTC).isoformat(timespec="milliseconds")
        about = {"name": name, "scheduled_at": moment.replace("+00:00", "Z")}
        call = Call(
            function=function,
            input={**entry.schedule.input, "_schedule": about},
            timeout=entry.config.timeout,
            caller=f"schedule:{name}",
            trigger="schedule",
            request_id=execution_id(function, name, run_at),
        )
        try:
            self._submit(call)
        except (OverloadedError, DatabaseUnavailableError):
            raise
        except SandboxError as error:  # for example because another server has sent the run
            log.warning("%s: the run of %s was not started: %s", function, name, error)
