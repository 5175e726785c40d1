"""When a schedule is due: its expression → the moments of its runs, called ticks. Pure.

Times are seconds since the epoch. Intervals are counted from the epoch too, so that all servers
have the same ticks, also after a restart: `1h` is every full hour of UTC. Cron expressions mean
what crontab(5) says, in the schedule's own time zone:

- Where both days, of the month and of the week, are restricted, either makes a day count.
- A range may run over the end: `FRI-MON`, `22-2`. Sunday is 0 and 7.
- When clocks are put forward, a time that is left out runs as much later: 02:30 becomes 03:30.
- When clocks are put back, a time that comes twice runs once, the first time; with every hour
  (`*`) it runs in both, as what runs every ten minutes has to.
"""

from __future__ import annotations

import math
import re
import zoneinfo
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Protocol

from apscheduler.triggers.cron import CronTrigger

if TYPE_CHECKING:
    from sandbox.functions.manifest import Schedule

# No schedule runs more often, in seconds.
SHORTEST: Final = 1.0
_END: Final = datetime(2200, 1, 1, tzinfo=UTC)
_INSTANT: Final = timedelta(microseconds=1)
_DURATION: Final = re.compile(
    r"\s*([0-9]+(?:\.[0-9]+)?)\s*(ms|h|m|s|)\s*", re.ASCII | re.IGNORECASE
)
_UNITS: Final = {"ms": 0.001, "": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}
_WORDS: Final = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_MONTHS: Final = "JAN FEB MAR APR MAY JUN JUL AUG SEP OCT NOV DEC".split()  # noqa: SIM905
_DAYS: Final = "SUN MON TUE WED THU FRI SAT".split()  # noqa: SIM905
# Lowest, highest, and words from the lowest on.
_FIELDS: Final[tuple[tuple[int, int, list[str]], ...]] = (
    (0, 59, []),
    (0, 59, []),
    (0, 23, []),
    (1, 31, []),
    (1, 12, _MONTHS),
    (0, 6, _DAYS),
)


class Ticks(Protocol):
    """The moments at which a schedule is due."""

    def after(self, moment: float) -> float | None:
        """The first tick later than `moment`; None if there is none."""


def next_tick(schedule: Schedule, after: float) -> float | None:
    """The first tick of a valid schedule that is later than `after`; None if there is none."""
    return _ticks(schedule.type, schedule.expression, schedule.timezone).after(after)


def last_tick(schedule: Schedule, after: float, until: float) -> float | None:
    """The last tick that is later than `after` and not later than `until`; None if there is none.

    Takes few steps however many there are.
    """
    ticks = _ticks(schedule.type, schedule.expression, schedule.timezone)
    low = ticks.after(after)
    if low is None or low > until:
        return None
    high = until
    while True:
        # `low` is a tick, and there is none between `high` and `until`.
        following = ticks.after(low)
        if following is None or following > until:
            return low
        middle = (following + high) / 2
        jumped = ticks.after(middle)
        if jumped is not None and jumped <= until:
            low = jumped
        else:
            low, high = following, middle


def interval_seconds(expression: str) -> float:
    """Seconds of an interval, such as `30`, `5m` or `1h30m`."""
    return math.fsum(
        float(number) * _UNITS[unit.lower()] for number, unit in _DURATION.findall(expression)
    )


@lru_cache(1024)
def _ticks(kind: str, expression: str, timezone: str) -> Ticks:
    if kind == "cron":
        return Cron(expression, timezone)
    if kind == "interval":
        return Interval(max(SHORTEST, interval_seconds(expression)))
    return Once(datetime.fromisoformat(expression.upper()).timestamp())


class Once:
    """A single tick."""

    def __init__(self, at: float) -> None:
        self._at = at

    def after(self, moment: float) -> float | None:
        """See `Ticks`."""
        return self._at if self._at > moment else None


class Interval:
    """Every so many seconds, counted from the epoch."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def after(self, moment: float) -> float | None:
        """See `Ticks`."""
        count = math.floor(moment / self._seconds) + 1
        if count * self._seconds <= moment:  # rounding
            count += 1
        tick = count * self._seconds
        return tick if tick < _END.timestamp() else None


class Cron:
    """A cron expression in a time zone."""

    def __init__(self, expression: str, timezone: str) -> None:
        fields = _WORDS.get(expression.lower(), expression).split()
        if len(fields) == 5:
            fields.insert(0, "0")
        second, minute, hour, day, month, weekday = (
            _values(field, *form) for field, form in zip(fields, _FIELDS, strict=True)
        )
        every_day, every_weekday = set(range(1, 32)), set(range(7))
        days = [(day, weekday)]
        if not _is_any(fields[3]) and not _is_any(fields[5]):
            days = [(day, every_weekday), (every_day, weekday)]
        self._zone = UTC if timezone == "UTC" else zoneinfo.ZoneInfo(timezone)
        self._every_hour = len(hour) == 24
        self._triggers = [
            CronTrigger(
                second=_listed(second),
                minute=_listed(minute),
                hour=_listed(hour),
                day=_listed(days_of_month),
                month=_listed(month),
                # Its week begins on Monday.
                day_of_week=_listed({(number - 1) % 7 for number in days_of_week}),
                timezone=self._zone,
                end_date=_END,
            )
            for days_of_month, days_of_week in days
        ]

    def after(self, moment: float) -> float | None:
        """See `Ticks`."""
        found = [self._after(trigger, moment) for trigger in self._triggers]
        return min((tick for tick in found if tick is not None), default=None)

    def _after(self, trigger: CronTrigger, moment: float) -> float | None:
        while True:
            start = datetime.fromtimestamp(moment, UTC) + _INSTANT
            found = trigger.get_next_fire_time(None, start)
            if found is None:
                return None
            moment = float(found.timestamp())
            # A time that comes for the second time, since clocks were put back, has `fold`.
            if self._every_hour or not datetime.fromtimestamp(moment, self._zone).fold:
                return moment


def _is_any(field: str) -> bool:
    return field in ("*", "?")


def _listed(values: set[int]) -> str:
    return ",".join(map(str, sorted(values)))


def _values(field: str, low: int, high: int, words: list[str]) -> set[int]:
    """The numbers that a field of a valid expression stands for."""
    found: set[int] = set()
    for part in field.split(","):
        span, _, step = part.partition("/")
        first, dash, last = span.partition("-")
        if _is_any(span):
            begin, end = low, high
        else:
            begin = _number(first, low, words)
            end = _number(last, low, words) if dash else high if step else begin
        count = high - low + 1
        if end < begin:  # over the end, to the beginning
            end += count
        found |= {low + (number - low) % count for number in range(begin, end + 1, int(step or 1))}
    return found


def _number(text: str, low: int, words: list[str]) -> int:
    return words.index(text.upper()) + low if text.upper() in words else int(text)
