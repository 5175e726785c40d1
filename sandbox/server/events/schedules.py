"""Schedules at work: APScheduler wakes us, `Runs` starts what is due."""

from __future__ import annotations

import logging
import threading
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler

from sandbox.errors import DatabaseUnavailableError, OverloadedError
from sandbox.server.events.cron import SHORTEST, interval_seconds
from sandbox.server.events.due_runs import Planned, Runs
from sandbox.server.events.event_config import ScheduleConfig, read_config
from sandbox.server.events.schedule_record import ScheduleRecord

if TYPE_CHECKING:
    from collections.abc import Callable

    import sqlalchemy as sa

    from sandbox.config.server_settings import ScheduleSettings
    from sandbox.functions.manifest import Schedule
    from sandbox.server.events.due_runs import Find, Submit

log = logging.getLogger(__name__)

# When what could not be put into the queue is tried again, in seconds.
AGAIN: Final = 5.0


class _Threads(ThreadPoolExecutor):  # type: ignore[misc] # APScheduler has no types
    """Where looks run. The scheduler ends it under a lock that a look needs to ask for the next.

    So it is not waited for there, but by `join`.
    """

    def join(self) -> None:
        """Wait until every look has ended."""
        self._pool.shutdown(wait=True)


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
        self._threads = _Threads(4)
        self._timer = BackgroundScheduler(
            timezone=UTC,
            executors={"default": self._threads},
            job_defaults={
                "misfire_grace_time": None,
                "coalesce": True,
                # A look asks for the next one before it has returned.
                "max_instances": 100,
            },
        )

    def start(self, submit: Submit, find: Find) -> None:
        """Begin. `submit` puts a call into the queue, `find` looks an execution up."""
        if not self._settings.enabled:
            return
        # It tells of every job that comes and goes.
        logging.getLogger("apscheduler").setLevel(logging.WARNING)
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
        if self._timer.running:
            self._timer.shutdown(wait=False)
            self._threads.join()

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
                if schedule.type == "interval" and interval_seconds(schedule.expression) < SHORTEST:
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
        self._timer.add_job(
            self._look,
            "date",
            run_date=datetime.fromtimestamp(moment, UTC),
            args=(planned,),
            id="\n".join(planned.names),
            replace_existing=True,
        )

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
