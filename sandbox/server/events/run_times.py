"""When a schedule runs: run times from its expression. Pure.

Times are in seconds since the epoch. Intervals are counted from the epoch too, so all servers have
the same run times, also after a restart: `1h` is every full hour of UTC. Cron expressions mean
what crontab(5) says, in the schedule's own time zone:

- If day of the month and day of the week are both restricted, a day that matches either counts.
- When clocks go forward, a skipped time runs as much later: 02:30 becomes 03:30.
- When clocks go back, a repeated time runs once, the first time; but if the hour is `*`, it runs
  in both hours, so that a run every ten minutes stays one.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Protocol

from cronsim import CronSim, CronSimError

from sandbox.config.schedule_expressions import parse_cron, parse_time, parse_timezone
from sandbox.units import parse_interval

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandbox.functions.manifest import Schedule

# Seconds. No schedule runs more often.
MIN_INTERVAL: Final = 1.0
_END: Final = datetime(2200, 1, 1, tzinfo=UTC).timestamp()
# Clocks never change twice within this time.
_TRANSITION: Final = timedelta(hours=3)


class RunTimes(Protocol):
    """The times at which a schedule runs."""

    def after(self, moment: float) -> float | None:
        """The first run time later than `moment`; None if there is none."""


def next_run(schedule: Schedule, after: float) -> float | None:
    """The first time later than `after` at which a valid schedule runs; None if there is none."""
    return _run_times(schedule.type, schedule.expression, schedule.timezone).after(after)


def latest_run(schedule: Schedule, after: float, until: float) -> float | None:
    """The last run time later than `after` and not later than `until`; None if there is none.

    Takes few steps, however many run times are between the two.
    """
    times = _run_times(schedule.type, schedule.expression, schedule.timezone)
    low = times.after(after)
    if low is None or low > until:
        return None
    high = until
    while True:
        # `low` is a run time. No run time is between `high` and `until`.
        following = times.after(low)
        if following is None or following > until:
            return low
        middle = (following + high) / 2
        jumped = times.after(middle)
        if jumped is not None and jumped <= until:
            low = jumped
        else:
            low, high = following, middle


@lru_cache(1024)
def _run_times(kind: str, expression: str, timezone: str) -> RunTimes:
    if kind == "cron":
        return CronTimes(expression, parse_timezone(timezone))
    if kind == "interval":
        return IntervalTimes(max(MIN_INTERVAL, parse_interval(expression)))
    return SingleTime(parse_time(expression).timestamp())


class SingleTime:
    """One time."""

    def __init__(self, at: float) -> None:
        self._at = at

    def after(self, moment: float) -> float | None:
        return self._at if self._at > moment else None


class IntervalTimes:
    """Every so many seconds, counted from the epoch."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def after(self, moment: float) -> float | None:
        count = math.floor(moment / self._seconds) + 1
        if count * self._seconds <= moment:  # rounding
            count += 1
        found = count * self._seconds
        return found if found < _END else None


class CronTimes:
    """A cron expression in a time zone.

    cronsim finds the times of a wall clock. This class finds the moments at which the clock shows
    them, also on days on which clocks change.
    """

    def __init__(self, expression: str, zone: tzinfo) -> None:
        fields = parse_cron(expression)
        self._zone = zone
        self._every_hour = fields.hours is None or len(fields.hours) == 24
        self._expression = " ".join(
            "*" if values is None else ",".join(map(str, sorted(values))) for values in fields
        )

    def after(self, moment: float) -> float | None:
        found = self._in_every_hour(moment) if self._every_hour else self._once(moment)
        return found if found is not None and found < _END else None

    def _once(self, moment: float) -> float | None:
        """The next run time, where a repeated wall time counts only the first time."""
        local = datetime.fromtimestamp(moment, self._zone)
        # A wall time that was skipped within the last hours runs as much later.
        before = datetime.fromtimestamp(moment - _TRANSITION.total_seconds(), self._zone)
        skipped = max(timedelta(), _offset(local) - _offset(before))
        for wall in self._wall_times(local.replace(tzinfo=None) - skipped):
            found = wall.replace(tzinfo=self._zone).timestamp()
            if found > moment:
                return found
        return None

    def _in_every_hour(self, moment: float) -> float | None:
        """The next run time, where a repeated wall time counts both times."""
        local = datetime.fromtimestamp(moment, self._zone)
        wall, offset = local.replace(tzinfo=None), _offset(local)
        while True:
            shown = next(self._wall_times(wall), None)
            if shown is None:
                return None
            found = (shown - offset).replace(tzinfo=UTC).timestamp()
            if _offset(datetime.fromtimestamp(found, self._zone)) == offset:
                return found
            # Clocks change before `found`: continue from the change with the new offset.
            changed = self._first_change(moment, found)
            wall, offset = changed.replace(tzinfo=None) - timedelta(seconds=1), _offset(changed)
            moment = changed.timestamp()

    def _first_change(self, low: float, high: float) -> datetime:
        """The first whole second between two times at which the offset is another one."""
        first, last = math.floor(low), math.ceil(high)
        offset = _offset(datetime.fromtimestamp(first, self._zone))
        while last - first > 1:
            middle = (first + last) // 2
            if _offset(datetime.fromtimestamp(middle, self._zone)) == offset:
                first = middle
            else:
                last = middle
        return datetime.fromtimestamp(last, self._zone)

    def _wall_times(self, after: datetime) -> Iterator[datetime]:
        """Matching wall times later than `after`; none for a day that no month has."""
        try:
            yield from CronSim(self._expression, after)
        except CronSimError:
            return


def _offset(moment: datetime) -> timedelta:
    return moment.utcoffset() or timedelta()
