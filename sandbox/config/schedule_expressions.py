"""The grammar of schedules: cron expressions, single times and time zones. Pure.

Expressions are untrusted input, so parsing takes time in proportion to their length, no more.
"""

from __future__ import annotations

import re
import zoneinfo
from datetime import UTC, datetime, tzinfo
from typing import Final, NamedTuple

from sandbox.documents.problems import shown
from sandbox.units import parse_interval

_RFC3339: Final = re.compile(
    r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:[Zz]|[+-]\d\d:\d\d)", re.ASCII
)
_NUMBER: Final = re.compile(r"[0-9]{1,2}", re.ASCII)
_CRON_WORDS: Final = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_MONTHS: Final = (
    "JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC",
)  # fmt: skip
_DAYS: Final = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
_ANY: Final = ("*", "?")


class _Form(NamedTuple):
    """A field of a cron expression: its values, the highest number one may write, and words."""

    name: str
    low: int
    high: int
    highest: int
    words: tuple[str, ...] = ()


_FORMS: Final = (
    _Form("second", 0, 59, 59),
    _Form("minute", 0, 59, 59),
    _Form("hour", 0, 23, 23),
    _Form("day of the month", 1, 31, 31),
    _Form("month", 1, 12, 12, _MONTHS),
    # Sunday is 0 and 7.
    _Form("day of the week", 0, 6, 7, _DAYS),
)


class CronFields(NamedTuple):
    """The values that each field of a cron expression matches; None for all (`*` or `?`)."""

    seconds: frozenset[int] | None
    minutes: frozenset[int] | None
    hours: frozenset[int] | None
    days: frozenset[int] | None
    months: frozenset[int] | None
    weekdays: frozenset[int] | None


def check_expression(kind: str, expression: str) -> None:
    """Raise ValueError unless `expression` is one of that kind: `cron`, `interval`, `one_time`."""
    {"cron": parse_cron, "interval": parse_interval, "one_time": parse_time}[kind](expression)


def parse_cron(expression: str) -> CronFields:
    """The fields of a cron expression: five fields, six with seconds in front, or `@daily`.

    A range may wrap around, as in `FRI-MON` or `22-2`. A number with a step, `5/25`, is a range to
    the field's highest value.

    Raises:
        ValueError: the expression is invalid.
    """
    fields = _CRON_WORDS.get(expression.strip().lower(), expression).split()
    if not 5 <= len(fields) <= 6:
        raise ValueError(
            f"{shown(expression)} is no cron expression: give minute, hour, day of the month, "
            "month and day of the week, as in '0 3 * * *' (a sixth field in front: seconds)"
        )
    if len(fields) == 5:
        fields.insert(0, "0")
    return CronFields(*map(_values, fields, _FORMS))


def _values(field: str, form: _Form) -> frozenset[int] | None:
    if field in _ANY:
        return None
    return frozenset(value for part in field.split(",") for value in _part(part, form))


def _part(part: str, form: _Form) -> list[int]:
    """The values of one of `*`, `7`, `1-5`, `MON`, each with `/2` or without."""
    span, slash, step = part.partition("/")
    first, dash, last = span.partition("-")
    if span in _ANY:
        begin, end = form.low, form.high
    else:
        begin = _number(first, form)
        end = _number(last, form) if dash else form.high if slash else begin
    valid_step = not slash or (_NUMBER.fullmatch(step) and int(step) > 0)
    if begin < 0 or end < 0 or not valid_step:
        raise ValueError(
            f"{shown(part)} is no {form.name} of a cron expression ({form.low} to {form.highest})"
        )
    count = form.high - form.low + 1
    if end < begin:  # the range wraps around
        end += count
    return [
        form.low + (value - form.low) % count for value in range(begin, end + 1, int(step or 1))
    ]


def _number(text: str, form: _Form) -> int:
    """The value of a number or a word; -1 if it is neither."""
    if text.upper() in form.words:
        return form.words.index(text.upper()) + form.low
    value = int(text) if _NUMBER.fullmatch(text) else -1
    return value if form.low <= value <= form.highest else -1


def parse_time(expression: str) -> datetime:
    """A time in the form of RFC 3339, such as `2026-01-24T10:30:00Z`.

    Raises:
        ValueError: the text has another form, or there is no such time.
    """
    if _RFC3339.fullmatch(expression):
        try:
            return datetime.fromisoformat(expression.upper())
        except ValueError:
            pass
    raise ValueError(f"{shown(expression)} is no time of RFC 3339, such as 2026-01-24T10:30:00Z")


def parse_timezone(name: str) -> tzinfo:
    """The time zone of that name in the time zone database.

    Raises:
        ValueError: the database has no such zone.
    """
    if name == "UTC":  # known even where the host has no time zone database
        return UTC
    try:
        return zoneinfo.ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ValueError(
            f"{shown(name)} is no time zone: write one such as Europe/Berlin, or UTC"
        ) from None
