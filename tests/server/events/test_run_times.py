"""When schedules are due: cron, intervals, single times, and the days on which clocks change."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from sandbox.config.schedule_expressions import parse_cron
from sandbox.functions.manifest import Schedule
from sandbox.server.events.run_times import latest_run, next_run
from sandbox.units import parse_interval

NOW = datetime(2026, 5, 20, 10, 7, 30, tzinfo=UTC)  # a Wednesday


def schedule(expression: str, *, kind: str = "cron", timezone: str = "UTC") -> Schedule:
    return Schedule.model_validate(
        {"name": "s", "type": kind, "expression": expression, "timezone": timezone}
    )


def run_times(
    expression: str, count: int, *, start: datetime = NOW, timezone: str = "UTC"
) -> list[str]:
    """The next run times, in the schedule's zone."""
    its, found = schedule(expression, timezone=timezone), []
    moment = start.timestamp()
    for _ in range(count):
        found_at = next_run(its, moment)
        assert found_at is not None
        assert found_at > moment
        found.append(datetime.fromtimestamp(found_at, ZoneInfo(timezone)).isoformat())
        moment = found_at
    return found


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("*/20 * * * *", ["05-20T10:20:00", "05-20T10:40:00", "05-20T11:00:00"]),
        ("*/20 * * * * *", ["05-20T10:07:40", "05-20T10:08:00", "05-20T10:08:20"]),
        ("5/25 * * * *", ["05-20T10:30:00", "05-20T10:55:00", "05-20T11:05:00"]),
        ("0 3 * * *", ["05-21T03:00:00", "05-22T03:00:00"]),
        ("0 22-2/2 * * *", ["05-20T22:00:00", "05-21T00:00:00", "05-21T02:00:00"]),
        ("0 0 * * 0", ["05-24T00:00:00", "05-31T00:00:00"]),
        ("0 0 * * 7", ["05-24T00:00:00", "05-31T00:00:00"]),
        ("0 0 * * sun", ["05-24T00:00:00"]),
        ("0 0 * * 5-7", ["05-22T00:00:00", "05-23T00:00:00", "05-24T00:00:00", "05-29T00:00:00"]),
        (
            "0 0 * * FRI-MON",
            ["05-22T00:00:00", "05-23T00:00:00", "05-24T00:00:00", "05-25T00:00:00"],
        ),
        ("0 0 1 jun,AUG ?", ["06-01T00:00:00", "08-01T00:00:00"]),
        ("0 0 31 * *", ["05-31T00:00:00", "07-31T00:00:00"]),
        # Both days are restricted: either will do.
        ("0 0 28 * MON", ["05-25T00:00:00", "05-28T00:00:00", "06-01T00:00:00"]),
        ("@hourly", ["05-20T11:00:00", "05-20T12:00:00"]),
        ("@weekly", ["05-24T00:00:00"]),
        ("@monthly", ["06-01T00:00:00"]),
    ],
)
def test_cron_expressions(expression: str, expected: list[str]) -> None:
    assert run_times(expression, len(expected)) == [f"2026-{item}+00:00" for item in expected]


def test_a_day_that_comes_once_in_four_years() -> None:
    assert run_times("0 0 29 2 *", 1) == ["2028-02-29T00:00:00+00:00"]


def test_a_day_that_never_comes_has_no_run_time() -> None:
    assert next_run(schedule("0 0 31 2 *"), NOW.timestamp()) is None


@pytest.mark.parametrize(
    "expression",
    ["0 0 31 2 *", "59 59 23 29 2 *", "* * 2 * * *", "* * 0-22 * * *", "* * 2,3 * 3,10 7",
     ",".join(["0-59"] * 2000) + " * * * *", ",".join(["59/1"] * 2000) + " 1-23 31 2 *"],
    ids=lambda text: text[:20],
)  # fmt: skip
def test_no_expression_costs_more_than_a_moment(expression: str) -> None:
    """Measured: 0.2 s together at most. A search second by second would take hours."""
    its = schedule(expression, timezone="Europe/Berlin")
    began = time.process_time()
    for day in ("2026-03-29T01:00", "2026-10-25T00:00", "2026-10-25T01:59", "2096-03-01T00:00"):
        moment = datetime.fromisoformat(f"{day}+00:00").timestamp()
        next_run(its, moment)
        latest_run(its, moment - 3 * 365 * 86400, moment)
    assert time.process_time() - began < 10


def test_a_time_is_in_the_schedule_s_zone() -> None:
    assert run_times("0 3 * * *", 1, timezone="Asia/Tokyo") == ["2026-05-21T03:00:00+09:00"]


def test_a_time_that_clocks_leave_out_runs_as_much_later_and_once() -> None:
    start = datetime(2026, 3, 28, 12, tzinfo=UTC)
    assert run_times("30 2 * * *", 2, start=start, timezone="Europe/Berlin") == [
        "2026-03-29T03:30:00+02:00",
        "2026-03-30T02:30:00+02:00",
    ]
    assert run_times("30 2,3 * * *", 2, start=start, timezone="Europe/Berlin") == [
        "2026-03-29T03:30:00+02:00",
        "2026-03-30T02:30:00+02:00",
    ]


def test_a_time_that_comes_twice_runs_once() -> None:
    start = datetime(2026, 10, 24, 12, tzinfo=UTC)
    assert run_times("30 2 * * *", 2, start=start, timezone="Europe/Berlin") == [
        "2026-10-25T02:30:00+02:00",
        "2026-10-26T02:30:00+01:00",
    ]
    # Also for a server that starts between the two.
    between = datetime(2026, 10, 25, 0, 45, tzinfo=UTC)
    assert run_times("30 2 * * *", 1, start=between, timezone="Europe/Berlin") == [
        "2026-10-26T02:30:00+01:00"
    ]


@pytest.mark.parametrize("day", ["2026-03-29", "2026-10-25"])
def test_what_runs_every_half_hour_does_so_when_clocks_change(day: str) -> None:
    start = datetime.fromisoformat(f"{day}T00:00:00+00:00") - timedelta(hours=2)
    found = run_times("*/30 * * * *", 12, start=start, timezone="Europe/Berlin")
    moments = [datetime.fromisoformat(item).timestamp() for item in found]
    assert {later - sooner for sooner, later in pairwise(moments)} == {1800.0}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30", 30), ("90s", 90), ("5m", 300), ("1h30m", 5400), ("1h0.5m", 3630), ("250ms", 0.25)],
)
def test_intervals_are_as_long_as_they_say(text: str, seconds: float) -> None:
    assert schedule(text, kind="interval").expression == text
    assert parse_interval(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["1" * 200_000, "1." + "1" * 200_000, "1s" * 100_000 + "x", "1h" + "1" * 200_000,
     "1" * 200_000 + "x1s"],
    ids=lambda text: text[:3] + text[-2:],
)  # fmt: skip
def test_no_text_that_is_no_interval_costs_more_than_a_moment(text: str) -> None:
    began = time.process_time()
    with pytest.raises(ValidationError):
        schedule(text, kind="interval")
    assert time.process_time() - began < 10  # it took half an hour once


def test_an_interval_beyond_all_bounds_never_runs() -> None:
    its = schedule("9" * 308 + "s" + "9" * 308 + "s", kind="interval")
    assert next_run(its, NOW.timestamp()) is None


@pytest.mark.parametrize("text", ["10ms", "0h0m"])
def test_no_interval_is_shorter_than_a_second(text: str) -> None:
    first = next_run(schedule(text, kind="interval"), 1000.0)
    assert first == 1001.0


def test_intervals_are_the_same_for_every_server() -> None:
    its = schedule("10m", kind="interval")
    base = datetime(2026, 5, 20, 10, tzinfo=UTC).timestamp()
    assert {next_run(its, base + late) for late in (0.0, 0.001, 299.5, 599.999)} == {base + 600}


def test_a_single_time_comes_once() -> None:
    its = schedule("2026-05-20T12:00:00+02:00", kind="one_time")
    at = datetime(2026, 5, 20, 10, tzinfo=UTC).timestamp()
    assert next_run(its, at - 1) == at
    assert next_run(its, at) is None
    assert latest_run(its, 0.0, at) == at
    assert latest_run(its, at, at + 1e6) is None


FIELD = st.one_of(
    st.just("*"),
    st.just("?"),
    st.builds("*/{}".format, st.integers(1, 40)),
    st.lists(st.integers(0, 59), min_size=1, max_size=3).map(lambda some: ",".join(map(str, some))),
    st.builds("{}-{}".format, st.integers(0, 59), st.integers(0, 59)),
    st.builds("{}-{}/{}".format, st.integers(0, 31), st.integers(0, 31), st.integers(1, 9)),
)
ZONES = st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"])
MOMENTS = st.floats(1.7e9, 1.9e9)


def accepted(expression: str, timezone: str) -> Schedule | None:
    try:
        return schedule(expression, timezone=timezone)
    except ValidationError:
        return None


@settings(deadline=None)
@given(st.lists(FIELD, min_size=5, max_size=6).map(" ".join), ZONES, MOMENTS)
def test_all_that_validation_accepts_has_run_times_that_go_forward(
    expression: str, timezone: str, moment: float
) -> None:
    its = accepted(expression, timezone)
    if its is None:
        return
    for _ in range(3):
        found_at = next_run(its, moment)
        if found_at is None:
            return
        assert found_at > moment
        moment = found_at


# Days on which clocks of these zones change, in seconds since the epoch.
CHANGES = [
    ("Europe/Berlin", "2026-03-29T01:00"), ("Europe/Berlin", "2026-10-25T01:00"),
    ("America/New_York", "2026-03-08T07:00"), ("America/New_York", "2026-11-01T06:00"),
    ("Australia/Lord_Howe", "2026-04-04T15:00"), ("Australia/Lord_Howe", "2026-10-03T15:30"),
]  # fmt: skip


def matching_by_counting(expression: str, timezone: str, moment: float) -> float | None:
    """The next time within two days, found by looking at every minute. The page's rules, in words."""
    fields = parse_cron(expression)
    zone = ZoneInfo(timezone)

    def matches(wall: datetime) -> bool:
        weekday = wall.isoweekday() % 7
        day = fields.days is None or wall.day in fields.days
        of_week = fields.weekdays is None or weekday in fields.weekdays
        restricted = fields.days is not None and fields.weekdays is not None
        return (
            (fields.minutes is None or wall.minute in fields.minutes)
            and (fields.hours is None or wall.hour in fields.hours)
            and (fields.months is None or wall.month in fields.months)
            and (day or of_week if restricted else day and of_week)
        )

    minutes = range(-24 * 60, 48 * 60)
    start = datetime.fromtimestamp(moment, zone).replace(second=0, microsecond=0)
    if fields.hours is None or len(fields.hours) == 24:
        begin = start.timestamp()
        found = [
            at for at in (begin + 60 * count for count in minutes)
            if matches(datetime.fromtimestamp(at, zone))
        ]  # fmt: skip
    else:
        walls = (start.replace(tzinfo=None) + timedelta(minutes=count) for count in minutes)
        found = [wall.replace(tzinfo=zone).timestamp() for wall in walls if matches(wall)]
    return min((at for at in found if at > moment), default=None)


@settings(deadline=None)
@given(
    st.lists(FIELD, min_size=5, max_size=5).map(" ".join),
    st.sampled_from(CHANGES),
    st.integers(-12 * 3600, 12 * 3600),
)
def test_the_next_run_around_a_change_of_clocks_is_the_one_that_counting_finds(
    expression: str, change: tuple[str, str], distance: int
) -> None:
    timezone, at = change
    its = accepted(expression, timezone)
    if its is None:
        return
    moment = datetime.fromisoformat(f"{at}+00:00").timestamp() + distance
    expected = matching_by_counting(expression, timezone, moment)
    found = next_run(its, moment)
    if expected is not None and expected < moment + 40 * 3600:
        assert found == expected
    else:
        assert found is None or found > moment + 40 * 3600 or found == expected


def test_a_time_that_clocks_left_out_a_moment_ago_still_runs() -> None:
    start = datetime(2026, 3, 29, 1, 10, tzinfo=UTC)  # 03:10: 02:30 did not come
    assert run_times("30 2 * * *", 1, start=start, timezone="Europe/Berlin") == [
        "2026-03-29T03:30:00+02:00"
    ]


def test_no_hour_is_lost_after_a_day_on_which_clocks_change() -> None:
    start = datetime(2028, 3, 24, 10, tzinfo=UTC)
    assert run_times("10 * 16 * 1", 1, start=start, timezone="Europe/Berlin") == [
        "2028-03-27T00:10:00+02:00"
    ]


@settings(deadline=None)
@given(
    st.sampled_from(["*/7 * * * *", "* 3 * * *", "*/50 * * * * *", "0 0 * * *", "30 2 * * *"]),
    ZONES,
    st.floats(1.7e9, 1.9e9),
    st.floats(1, 40_000),
)
def test_the_latest_run_is_the_one_that_counting_finds(
    expression: str, timezone: str, begin: float, length: float
) -> None:
    its, found, moment = schedule(expression, timezone=timezone), None, begin
    while (found_at := next_run(its, moment)) is not None and found_at <= begin + length:
        found = moment = found_at
    assert latest_run(its, begin, begin + length) == found
