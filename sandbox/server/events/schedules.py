"""All schedules of a server: a timer wakes at each run time, `ScheduleRunner` starts the run."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Final

from sandbox.errors import DatabaseUnavailableError, OverloadedError
from sandbox.server.events.event_config import ScheduleConfig, read_config
from sandbox.server.events.run_times import MIN_INTERVAL
from sandbox.server.events.schedule_runner import ScheduleEntry, ScheduleRunner
from sandbox.server.events.schedule_store import ScheduleStore
from sandbox.server.events.timer import Timer
from sandbox.units import parse_interval

if TYPE_CHECKING:
    from collections.abc import Callable

    import sqlalchemy as sa

    from sandbox.config.server_settings import ScheduleSettings
    from sandbox.functions.manifest import Schedule
    from sandbox.server.events.schedule_runner import Find, Submit

log = logging.getLogger(__name__)

# Seconds until the next attempt, if a run could not be put into the queue.
RETRY_AFTER: Final = 5.0


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
        self._entries: dict[tuple[str, str], ScheduleEntry] = {}
        self._store = ScheduleStore(database)
        # None before `start` and after `close`.
        self._runner: ScheduleRunner | None = None
        self._timer = Timer("schedules", threads=4)

    def start(self, submit: Submit, find: Find) -> None:
        """Start. `submit` puts a call into the queue, `find` looks up an execution by its id."""
        if not self._settings.enabled:
            return
        with self._lock:
            self._runner = ScheduleRunner(
                self._settings, self._store, submit=submit, find=find, clock=self._clock
            )
            for entry in self._entries.values():
                self._check_at(entry, self._clock())
        self._timer.start()

    def close(self) -> None:
        with self._lock:
            self._runner = None
        self._timer.close()

    def register(self, function: str, schedules: tuple[Schedule, ...]) -> list[str]:
        """Replace the function's schedules; unchanged ones go on undisturbed.

        Returns remarks for the author of the manifest. A schedule with an invalid config does
        not run.
        """
        remarks = []
        with self._lock:
            gone = {key for key in self._entries if key[0] == function}
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
                before = self._entries.get(key)
                if before is None or before.schedule != schedule:
                    self._add(function, schedule, config)
            for key in gone:
                del self._entries[key]
        return remarks

    def unregister(self, function: str) -> None:
        self.register(function, ())

    def next_checks(self) -> list[tuple[str, str, float]]:
        """Function, schedule and time of each next check, the soonest first."""
        with self._lock:
            found = [
                (*entry.names, entry.next_check)
                for entry in self._entries.values()
                if entry.next_check is not None
            ]
        return sorted(found, key=lambda item: item[2])

    def _add(self, function: str, schedule: Schedule, config: ScheduleConfig) -> None:
        started = self._runner is not None
        entry = ScheduleEntry(
            function=function, schedule=schedule, config=config, added_later=started
        )
        self._entries[entry.names] = entry
        if started:
            self._check_at(entry, self._clock())

    def _check_at(self, entry: ScheduleEntry, moment: float) -> None:
        """Check the schedule at that time. The caller holds the lock."""
        entry.next_check = moment
        self._timer.call_at(moment, lambda: self._check(entry), key=entry.names)

    def _check(self, entry: ScheduleEntry) -> None:
        """Start a due run, in a thread of the timer, where no exception may escape."""
        runner = self._runner
        if runner is None or self._entries.get(entry.names) is not entry:
            return
        try:
            moment = runner.start_due_run(entry)
        except (OverloadedError, DatabaseUnavailableError) as error:
            log.warning("%s: the schedule %s has to wait: %s", *entry.names, error)
            moment = self._clock() + RETRY_AFTER
        except Exception:
            log.exception("%s: the schedule %s has to wait", *entry.names)
            moment = self._clock() + RETRY_AFTER
        with self._lock:
            entry.next_check = None
            if moment is not None and self._entries.get(entry.names) is entry:
                self._check_at(entry, moment)
