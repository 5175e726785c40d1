"""Schedules at work: APScheduler wakes us, the database sees to it that each time runs once.

Of every schedule the database has the last time that was taken. A time is taken by one update
that only one server can make; so servers that share a database, and one that starts again, never
run it twice. What was missed while no server ran is made up for as the settings say.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.jobstores.base import JobLookupError
from apscheduler.schedulers.background import BackgroundScheduler
from sqlalchemy.exc import IntegrityError

from sandbox.errors import DatabaseUnavailableError, OverloadedError, SandboxError
from sandbox.executions.database import create_tables, reading, using
from sandbox.executions.model import Call
from sandbox.server.ticks import last_tick, next_tick
from sandbox.units import parse_duration

if TYPE_CHECKING:
    from sandbox.executions.model import Execution
    from sandbox.manifest import Schedule
    from sandbox.server_settings import ScheduleSettings

log = logging.getLogger(__name__)

# A time whose execution could not be put on record is tried again after so many seconds.
_AGAIN: Final = 5.0

_metadata = sa.MetaData()
_ticks = sa.Table(
    "schedules",
    _metadata,
    sa.Column("function", sa.String(64), primary_key=True),
    sa.Column("name", sa.String(255), primary_key=True),
    # The last time that was taken, in seconds since the epoch; and what ran then.
    sa.Column("taken", sa.Float(53), nullable=False),
    sa.Column("execution", sa.String(64)),
)

Submit = Callable[[Call], "Execution"]
Find = Callable[[str], "Execution | None"]


@dataclass
class _Planned:
    schedule: Schedule
    job: str
    tick: float | None = field(default=None)


class Schedules:
    """Runs schedules between `start` and `close`. `register` may be called before and after."""

    def __init__(
        self,
        settings: ScheduleSettings,
        engine: sa.Engine,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._engine = engine
        self._clock = clock
        self._planned: dict[tuple[str, str], _Planned] = {}
        self._submit: Submit | None = None
        self._find: Find | None = None
        self._scheduler = BackgroundScheduler(
            timezone=UTC,
            executors={"default": ThreadPoolExecutor(4)},
            job_defaults={"misfire_grace_time": None, "coalesce": True},
        )
        if settings.enabled:
            create_tables(engine, _metadata)

    def start(self, submit: Submit, find: Find) -> None:
        """Begin. `submit` puts a call into the queue, `find` looks an execution up."""
        if not self._settings.enabled:
            return
        self._submit, self._find = submit, find
        for (function, name), planned in list(self._planned.items()):
            self._begin(function, name, planned)
        self._scheduler.start()

    def close(self) -> None:
        """Run nothing more."""
        if self._scheduler.running:
            self._scheduler.shutdown(wait=True)

    def register(self, function: str, schedules: tuple[Schedule, ...]) -> None:
        """These are the function's schedules; those that stay as they were go on undisturbed."""
        wanted = {(function, schedule.name): schedule for schedule in schedules}
        for key in [key for key in self._planned if key[0] == function]:
            if wanted.get(key) == self._planned[key].schedule:
                del wanted[key]
            else:
                self._remove(key)
        for key, schedule in wanted.items():
            planned = _Planned(schedule, job="/".join(key))
            self._planned[key] = planned
            if self._submit is not None:
                self._begin(*key, planned)

    def unregister(self, function: str) -> None:
        """The function has no schedules any more."""
        for key in [key for key in self._planned if key[0] == function]:
            self._remove(key)

    def due(self) -> list[tuple[str, str, float]]:
        """Function, schedule and time of what runs next, the soonest first."""
        found = [
            (function, name, planned.tick)
            for (function, name), planned in self._planned.items()
            if planned.tick is not None
        ]
        return sorted(found, key=lambda item: item[2])

    def _remove(self, key: tuple[str, str]) -> None:
        planned = self._planned.pop(key)
        with contextlib.suppress(JobLookupError):
            self._scheduler.remove_job(planned.job)

    def _begin(self, function: str, name: str, planned: _Planned) -> None:
        """Make up for what was missed, and wait for what comes."""
        now = self._clock()
        try:
            taken = self._known(function, name, planned.schedule, now)
        except DatabaseUnavailableError as error:
            log.warning("%s: the schedule %s: %s", function, name, error)
            taken = now
        missed = last_tick(planned.schedule, taken, now)
        if (
            missed is not None
            and self._settings.missed == "once"
            and now - missed <= self._settings.missed_within
        ):
            self._wait(function, name, planned, missed)
        else:
            self._wait(function, name, planned, next_tick(planned.schedule, now))

    def _wait(self, function: str, name: str, planned: _Planned, tick: float | None) -> None:
        planned.tick = tick
        if tick is not None:
            self._at(function, name, planned, tick, tick)

    def _at(self, function: str, name: str, planned: _Planned, moment: float, tick: float) -> None:
        self._scheduler.add_job(
            self._run,
            "date",
            run_date=datetime.fromtimestamp(moment, UTC),
            args=(function, name, planned, tick),
            id=planned.job,
            replace_existing=True,
        )

    def _run(self, function: str, name: str, planned: _Planned, tick: float) -> None:
        """Its time has come; in a thread of the scheduler's."""
        if self._planned.get((function, name)) is not planned:
            return  # it was changed or removed meanwhile
        try:
            self._take(function, name, planned.schedule, tick)
        except (OverloadedError, DatabaseUnavailableError) as error:
            log.warning("%s: the schedule %s waits: %s", function, name, error)
            self._at(function, name, planned, self._clock() + _AGAIN, tick)
            return
        except SandboxError as error:
            log.warning("%s: the schedule %s did not run: %s", function, name, error)
        except Exception:  # the edge of a thread
            log.exception("%s: the schedule %s did not run", function, name)
        self._wait(function, name, planned, next_tick(planned.schedule, max(tick, self._clock())))

    def _take(self, function: str, name: str, schedule: Schedule, tick: float) -> None:
        submit, find = self._submit, self._find
        if submit is None or find is None:
            return
        self._known(function, name, schedule, tick - 1)
        row = self._row(function, name)
        if row["taken"] >= tick:
            return  # another server has it
        if row["execution"] and schedule.config.get("overlap") != "allow":
            before = find(row["execution"])
            if before is not None and not before.ended:
                log.warning("%s: the schedule %s still runs, and is left out", function, name)
                self._claim(function, name, tick)
                return
        if not self._claim(function, name, tick):
            return
        try:
            execution = submit(_call(function, name, schedule))
        except (OverloadedError, DatabaseUnavailableError):
            self._give_back(function, name, tick, row["taken"])
            raise
        with using(self._engine), self._engine.begin() as connection:
            connection.execute(
                sa.update(_ticks).where(_is(function, name)).values(execution=execution.id)
            )

    def _known(self, function: str, name: str, schedule: Schedule, now: float) -> float:
        """The last time that was taken; one that is new has nothing to make up for.

        But one that runs once may have been meant for a moment ago.
        """
        row = self._row(function, name)
        if row is not None:
            return float(row["taken"])
        taken = 0.0 if schedule.type == "one_time" else now
        values = {"function": function, "name": name, "taken": taken}
        with (
            using(self._engine),
            contextlib.suppress(IntegrityError),
            self._engine.begin() as connection,
        ):
            connection.execute(sa.insert(_ticks).values(**values))
        return taken

    def _row(self, function: str, name: str) -> Any:
        with using(self._engine), reading(self._engine) as connection:
            query = sa.select(_ticks).where(_is(function, name))
            return connection.execute(query).mappings().first()

    def _claim(self, function: str, name: str, tick: float) -> bool:
        """Take a time; False if somebody has."""
        update = (
            sa.update(_ticks).where(_is(function, name), _ticks.c.taken < tick).values(taken=tick)
        )
        with using(self._engine), self._engine.begin() as connection:
            return connection.execute(update).rowcount == 1

    def _give_back(self, function: str, name: str, tick: float, before: float) -> None:
        update = (
            sa.update(_ticks)
            .where(_is(function, name), _ticks.c.taken == tick)
            .values(taken=before)
        )
        with using(self._engine), self._engine.begin() as connection:
            connection.execute(update)


def _is(function: str, name: str) -> sa.ColumnElement[bool]:
    return sa.and_(_ticks.c.function == function, _ticks.c.name == name)


def _call(function: str, name: str, schedule: Schedule) -> Call:
    timeout = schedule.config.get("timeout")
    return Call(
        function=function,
        input=dict(schedule.input),
        timeout=None if timeout is None else parse_duration(timeout),
        caller=f"schedule:{name}",
        trigger="schedule",
    )
