"""`Runs`: starts what is due of a schedule, once, whatever ended or was late meanwhile.

Each look takes the latest run time that is due; it stands for all before it.
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
from sandbox.server.events.schedule_record import execution_id

if TYPE_CHECKING:
    from sandbox.config.server_settings import ScheduleSettings
    from sandbox.executions.model import Execution
    from sandbox.functions.manifest import Schedule
    from sandbox.server.events.event_config import ScheduleConfig
    from sandbox.server.events.schedule_record import ScheduleRecord

log = logging.getLogger(__name__)

# A run that is late by less was not missed: this machine is busy. In seconds.
ON_TIME: Final = 30.0

Submit = Callable[[Call], "Execution"]
Find = Callable[[str], "Execution | None"]


@dataclass(eq=False, kw_only=True)
class Planned:
    """A schedule, and how far it has come; changed by its own look alone, one at a time.

    `added_later` is one that was not there when the server started. Run times up to `floor` are
    of no interest, whatever is on record; None before the first look. `next` is when it is due.
    """

    function: str
    schedule: Schedule
    config: ScheduleConfig
    added_later: bool
    floor: float | None = None
    next: float | None = None

    @property
    def names(self) -> tuple[str, str]:
        """The function's name, and the schedule's."""
        return self.function, self.schedule.name


class Runs:
    """Puts executions into the queue by `submit`; `find` looks one up."""

    def __init__(
        self,
        settings: ScheduleSettings,
        record: ScheduleRecord,
        *,
        submit: Submit,
        find: Find,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._record = record
        self._submit = submit
        self._find = find
        self._clock = clock
        # For how long a run that was missed while no server ran can be made up for.
        self._made_up = settings.missed_within if settings.missed == "once" else 0.0

    def look(self, planned: Planned) -> float | None:
        """Start what is due; when to look again, None for never.

        Raises:
            OverloadedError, DatabaseUnavailableError: look again soon.
        """
        now = self._clock()
        schedule = planned.schedule
        once = schedule.type == "one_time"
        known = self._record.find(*planned.names, new=0.0 if once else now)
        if planned.floor is None:
            planned.floor = now if planned.added_later and not once else now - self._made_up
        oldest = now - max(ON_TIME, self._made_up)
        if not known.sent:
            if known.taken > oldest:
                self._send(planned, known.taken)
            self._record.note_sent(*planned.names, known.taken)
        run_at = latest_run(schedule, max(known.taken, planned.floor, oldest), now)
        if run_at is not None:
            self._take(planned, run_at, known.execution)
        planned.floor = now
        return next_run(schedule, now)

    def _take(self, planned: Planned, run_at: float, before: str | None) -> None:
        names = planned.names
        if not planned.config.may_overlap and before is not None and self._is_under_way(before):
            if self._record.take(*names, run_at, execution=None):
                log.warning("%s: the schedule %s still runs, and is left out", *names)
            return
        if self._record.take(*names, run_at, execution=execution_id(*names, run_at)):
            self._send(planned, run_at)
            self._record.note_sent(*names, run_at)

    def _is_under_way(self, execution: str) -> bool:
        found = self._find(execution)
        return found is not None and not found.ended

    def _send(self, planned: Planned, run_at: float) -> None:
        function, name = planned.names
        moment = datetime.fromtimestamp(run_at, UTC).isoformat(timespec="milliseconds")
        about = {"name": name, "scheduled_at": moment.replace("+00:00", "Z")}
        call = Call(
            function=function,
            input={**planned.schedule.input, "_schedule": about},
            timeout=planned.config.timeout,
            caller=f"schedule:{name}",
            trigger="schedule",
            request_id=execution_id(function, name, run_at),
        )
        try:
            self._submit(call)
        except (OverloadedError, DatabaseUnavailableError):
            raise
        except SandboxError as error:  # among them: another server has sent it
            log.warning("%s: the schedule %s was not started: %s", function, name, error)
