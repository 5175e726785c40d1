"""Runs schedules: a timer wakes at each run time, `Runs` starts what is due."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Final

from sandbox.errors import DatabaseUnavailableError, OverloadedError
from sandbox.server.events.due_runs import Planned, Runs
from sandbox.server.events.event_config import ScheduleConfig, read_config
from sandbox.server.events.run_times import MIN_INTERVAL
from sandbox.server.events.schedule_record import ScheduleRecord
from sandbox.server.events.timer import Timer
from sandbox.units import parse_interval

if TYPE_CHECKING:
    from collections.abc import Callable

    import sqlalchemy as sa

    from sandbox.config.server_settings import ScheduleSettings
    from sandbox.functions.manifest import Schedule
    from sandbox.server.events.due_runs import Find, Submit

log = logging.getLogger(__name__)

# When what could not be put into the queue is tried again, in seconds.
AGAIN: Final = 5.0


class Schedules:
    """Runs schedules between `start` and `close`. `register` may be called before and after.

    Raises:
        DatabaseUnavailableError: the database cannot be used.
    """

    def __init__(
        self,
        settings: ScheduleSettings,
        database: sa.Engine,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._lock = threading.Lock()
        self._planned: dict[tuple[str, str], Planned] = {}
        self._record = ScheduleRecord(database)
        # None before `start` and after `close`.
        self._runs: Runs | None = None
        self._timer = Timer("schedules", threads=4)

    def start(self, submit: Submit, find: Find) -> None:
        """Begin. `submit` puts a call into the queue, `find` looks an execution up."""
        if not self._settings.enabled:
            return
        with self._lock:
            self._runs = Runs(
                self._settings, self._record, submit=submit, find=find, clock=self._clock
            )
            for planned in self._planned.values():
                self._look_at(planned, self._clock())
        self._timer.start()

    def close(self) -> None:
        """Start nothing more."""
        with self._lock:
            self._runs = None
        self._timer.close()

    def register(self, function: str, schedules: tuple[Schedule, ...]) -> list[str]:
        """These are the function's schedules; those that stay as they were go on undisturbed.

        Returns what there is to say about them; one whose config cannot be used does not run.
        """
        remarks = []
        with self._lock:
            gone = {key for key in self._planned if key[0] == function}
            for schedule in schedules:
                try:
                    config, more = read_config(ScheduleConfig, schedule.config)
                except ValueError as error:
                    remarks.append(f"the schedule {schedule.name!r} does not run: {error}")
                    continue
                if (
                    schedule.type == "interval"
                    and parse_interval(schedule.expression) < MIN_INTERVAL
                ):
                    more.append("it runs every second, and not more often")
                remarks += [f"the schedule {schedule.name!r}: {remark}" for remark in more]
                key = (function, schedule.name)
                gone.discard(key)
                before = self._planned.get(key)
                if before is None or before.schedule != schedule:
                    self._plan(key, schedule, config)
            for key in gone:
                del self._planned[key]
        return remarks

    def unregister(self, function: str) -> None:
        """The function has no schedules any more."""
        self.register(function, ())

    def due(self) -> list[tuple[str, str, float]]:
        """Function, schedule and time of what is looked at next, the soonest first."""
        with self._lock:
            found = [
                (*planned.names, planned.next)
                for planned in self._planned.values()
                if planned.next is not None
            ]
        return sorted(found, key=lambda item: item[2])

    def _plan(self, key: tuple[str, str], schedule: Schedule, config: ScheduleConfig) -> None:
        started = self._runs is not None
        planned = Planned(function=key[0], schedule=schedule, config=config, added_later=started)
        self._planned[key] = planned
        if started:
            self._look_at(planned, self._clock())

    def _look_at(self, planned: Planned, moment: float) -> None:
        """Look at the schedule at that moment. Under the lock."""
        planned.next = moment
        self._timer.call_at(moment, lambda: self._look(planned), key=planned.names)

    def _look(self, planned: Planned) -> None:
        """The edge of a thread of the timer's."""
        runs = self._runs
        if runs is None or self._planned.get(planned.names) is not planned:
            return
        try:
            moment = runs.look(planned)
        except (OverloadedError, DatabaseUnavailableError) as error:
            log.warning("%s: the schedule %s has to wait: %s", *planned.names, error)
            moment = self._clock() + AGAIN
        except Exception:
            log.exception("%s: the schedule %s has to wait", *planned.names)
            moment = self._clock() + AGAIN
        with self._lock:
            planned.next = None
            if moment is not None and self._planned.get(planned.names) is planned:
                self._look_at(planned, moment)
