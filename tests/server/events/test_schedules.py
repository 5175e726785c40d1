"""Schedules: each run happens once, whoever ends, starts late, or shares the database."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from sandbox.config.server_settings import ScheduleSettings
from sandbox.errors import FunctionNotFoundError, InvalidRequestError, OverloadedError
from sandbox.executions.database import open_database
from sandbox.executions.model import Execution
from sandbox.functions.manifest import Schedule
from sandbox.server.events.event_config import ScheduleConfig, read_config
from sandbox.server.events.schedule_runner import GRACE, ScheduleEntry, ScheduleRunner
from sandbox.server.events.schedule_store import ScheduleStore
from sandbox.server.events.schedules import Schedules
from tests.clock import Clock
from tests.postgresql import PostgreSQL, postgresql
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sandbox.call import Call

HOUR = 3600.0
NOON = datetime(2026, 5, 20, 12, tzinfo=UTC).timestamp()


class Queue:
    """The queue of executions, which takes an id once; `error` is what it answers instead."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.executions: dict[str, Execution] = {}
        self.error: Exception | None = None
        self._lock = threading.Lock()

    def submit(self, call: Call) -> Execution:
        with self._lock:
            if self.error is not None:
                raise self.error
            assert call.request_id is not None
            if call.request_id in self.executions:
                raise InvalidRequestError("its id is taken")
            execution = Execution(
                id=call.request_id,
                function=call.function,
                caller=call.caller,
                trigger=call.trigger,
                status="queued",
                created_at=0.0,
            )
            self.calls.append(call)
            self.executions[execution.id] = execution
            return execution

    def end_all(self) -> None:
        for name, execution in self.executions.items():
            self.executions[name] = replace(execution, status="succeeded")

    @property
    def run_times(self) -> list[str]:
        """The times of day that were run, `12:00:00`."""
        return [call.input["_schedule"]["scheduled_at"][11:19] for call in self.calls]


@dataclass
class Server:
    """One server's view of one schedule."""

    runner: ScheduleRunner
    entry: ScheduleEntry

    def check(self) -> float | None:
        return self.runner.start_due_run(self.entry)


def schedule(
    expression: str = "0 * * * *", kind: str = "cron", name: str = "s", **more: Any
) -> Schedule:
    return Schedule.model_validate({"name": name, "type": kind, "expression": expression, **more})


def rfc3339(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat()


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgreSQL]:
    with postgresql() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[sa.Engine]:
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/executions.db"
    else:
        url = request.getfixturevalue("postgres").url()
    db = open_database(url)
    yield db
    db.dispose()


@pytest.fixture
def clock() -> Clock:
    return Clock(NOON)


@pytest.fixture
def queue() -> Queue:
    return Queue()


@pytest.fixture
def start(database: sa.Engine, clock: Clock, queue: Queue) -> Callable[..., Server]:
    """`start(schedule, missed="skip")` is a server that starts now."""

    def start_server(its: Schedule, *, added_later: bool = False, **settings: Any) -> Server:
        runner = ScheduleRunner(
            ScheduleSettings.model_validate(settings),
            ScheduleStore(database),
            submit=queue.submit,
            find=queue.executions.get,
            clock=clock,
        )
        config, _ = read_config(ScheduleConfig, its.config)
        entry = ScheduleEntry(function="f", schedule=its, config=config, added_later=added_later)
        return Server(runner, entry)

    return start_server


def test_a_new_schedule_waits_for_its_first_run_time(
    start: Callable[..., Server], clock: Clock, queue: Queue
) -> None:
    clock.now = NOON + 60
    assert start(schedule()).check() == NOON + HOUR
    assert queue.calls == []


def test_a_run_becomes_an_execution(
    start: Callable[..., Server], clock: Clock, queue: Queue
) -> None:
    server = start(schedule(input={"a": 1}, config={"timeout": "5s"}))
    clock.now = server.check() or 0.0
    assert server.check() == NOON + 2 * HOUR
    (call,) = queue.calls
    assert call.function == "f"
    assert call.input == {
        "a": 1,
        "_schedule": {"name": "s", "scheduled_at": "2026-05-20T13:00:00.000Z"},
    }
    assert (call.caller, call.trigger, call.timeout) == ("schedule:s", "schedule", 5.0)


def test_two_checks_at_one_time_run_once(
    start: Callable[..., Server], clock: Clock, queue: Queue
) -> None:
    server = start(schedule())
    server.check()
    clock.now = NOON + HOUR
    server.check()
    server.check()
    assert queue.run_times == ["13:00:00"]


def test_servers_that_share_a_database_run_it_once(
    start: Callable[..., Server], clock: Clock, queue: Queue
) -> None:
    servers = [start(schedule("1m", "interval", config={"overlap": "allow"})) for _ in range(4)]
    for server in servers:
        server.check()
    for minute in range(1, 6):
        clock.now = NOON + 60 * minute
        threads = [threading.Thread(target=server.check) for server in servers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert queue.run_times == [f"12:0{minute}:00" for minute in range(1, 6)]


def test_runs_that_were_late_are_one_run(
    start: Callable[..., Server], clock: Clock, queue: Queue
) -> None:
    server = start(schedule("1s", "interval"), missed="skip")
    server.check()
    clock.now = NOON + GRACE - 2.5
    server.check()
    assert queue.run_times == ["12:00:27"]


def test_missed_runs_are_made_up_for_by_one(
    start: Callable[..., Server], clock: Clock, queue: Queue
) -> None:
    start(schedule("10m", "interval")).check()
    clock.now = NOON + 1805
    server = start(schedule("10m", "interval"))
    assert server.check() == NOON + 2400
    assert queue.run_times == ["12:30:00"]
    start(schedule("10m", "interval")).check()
    assert len(queue.calls) == 1


def test_missed_runs_are_left_out_if_the_operator_says_so(
    start: Callable[..., Server], clock: Clock, queue: Queue
) -> None:
    start(schedule("10m", "interval"), missed="skip").check()
    clock.now = NOON + 1805
    server = start(schedule("10m", "interval"), missed="skip")
    clock.now = server.check() or 0.0
    server.check()
    assert queue.run_times == ["12:40:00"]


def test_what_was_missed_too_long_ago_is_left_out(
    start: Callable[..., Server], clock: Clock, queue: Queue
) -> None:
    start(schedule("0 13 * * *"), missed_within="10m").check()
    clock.now = NOON + HOUR + 601
    start(schedule("0 13 * * *"), missed_within="10m").check()
    assert queue.calls == []
    clock.now -= 2  # the control
    start(schedule("0 13 * * *"), missed_within="10m").check()
    assert queue.run_times == ["13:00:00"]


def test_a_schedule_that_is_added_to_a_running_server_has_missed_nothing(
    start: Callable[..., Server], clock: Clock, queue: Queue
) -> None:
    start(schedule()).check()
    clock.now = NOON + HOUR + 60
    start(schedule(), added_later=True).check()
    assert queue.calls == []
    start(schedule()).check()  # the control
    assert queue.run_times == ["13:00:00"]


@pytest.mark.parametrize("added_later", [False, True])
def test_a_single_time_that_is_past_runs_once_within_the_policy(
    start: Callable[..., Server], clock: Clock, queue: Queue, added_later: bool
) -> None:
    its = schedule(rfc3339(NOON - 600), "one_time")
    for _ in range(3):
        assert start(its, added_later=added_later).check() is None
        clock.now += 1
    assert queue.run_times == ["11:50:00"]


@pytest.mark.parametrize("settings", [{"missed": "skip"}, {"missed_within": "5m"}])
def test_a_single_time_that_is_past_never_runs_against_the_policy(
    start: Callable[..., Server], queue: Queue, settings: dict[str, str]
) -> None:
    assert start(schedule(rfc3339(NOON - 600), "one_time"), **settings).check() is None
    assert queue.calls == []


def test_a_single_time_runs_when_it_comes_and_never_again(
    start: Callable[..., Server], clock: Clock, queue: Queue
) -> None:
    its = schedule(rfc3339(NOON + 5), "one_time")
    server = start(its)
    clock.now = server.check() or 0.0
    assert clock.now == NOON + 5
    assert server.check() is None
    assert start(its).check() is None
    assert queue.run_times == ["12:00:05"]


def test_a_run_is_left_out_while_another_is_under_way(
    start: Callable[..., Server], clock: Clock, queue: Queue
) -> None:
    servers = [start(schedule("1m", "interval")) for _ in range(2)]
    for minute in range(4):
        clock.now = NOON + 60 * minute
        if minute == 3:
            queue.end_all()
        for server in servers:
            server.check()
    assert queue.run_times == ["12:01:00", "12:03:00"]


@pytest.mark.parametrize("config", [{"overlap": "allow"}, {"skip_if_running": False}])
def test_a_run_may_overlap_if_its_config_says_so(
    start: Callable[..., Server], clock: Clock, queue: Queue, config: dict[str, Any]
) -> None:
    server = start(schedule("1m", "interval", config=config))
    for minute in range(3):
        clock.now = NOON + 60 * minute
        server.check()
    assert queue.run_times == ["12:01:00", "12:02:00"]


def test_a_run_that_finds_the_queue_full_is_sent_later_and_once(
    start: Callable[..., Server], clock: Clock, queue: Queue
) -> None:
    server = start(schedule("1m", "interval"))
    server.check()
    clock.now = NOON + 60
    queue.error = OverloadedError("full", retry_after=1.0)
    for _ in range(2):
        with pytest.raises(OverloadedError):
            server.check()
    queue.error = None
    clock.now += 5
    server.check()
    server.check()
    assert queue.run_times == ["12:01:00"]


def test_a_run_that_was_taken_by_a_server_that_ended_is_sent_by_the_next(
    start: Callable[..., Server], clock: Clock, queue: Queue
) -> None:
    dead = start(schedule())
    dead.check()
    clock.now = NOON + HOUR
    queue.error = KeyboardInterrupt()  # it ends between taking and sending
    with pytest.raises(KeyboardInterrupt):
        dead.check()
    queue.error = None
    clock.now += 3
    for _ in range(2):
        start(schedule()).check()
    assert queue.run_times == ["13:00:00"]


def test_a_run_that_was_sent_just_before_the_end_is_not_sent_again(
    start: Callable[..., Server], clock: Clock, queue: Queue, database: sa.Engine
) -> None:
    server = start(schedule())
    server.check()
    clock.now = NOON + HOUR
    server.check()
    with database.begin() as connection:  # as if it had ended before it noted that
        connection.execute(sa.text("UPDATE schedules SET sent = :no"), {"no": False})
    start(schedule()).check()
    assert queue.run_times == ["13:00:00"]


def test_a_function_that_is_gone_does_not_stop_its_schedule(
    start: Callable[..., Server], clock: Clock, queue: Queue
) -> None:
    server = start(schedule())
    server.check()
    clock.now = NOON + HOUR
    queue.error = FunctionNotFoundError("gone")
    assert server.check() == NOON + 2 * HOUR
    queue.error = None
    clock.now = NOON + 2 * HOUR
    server.check()
    assert queue.run_times == ["14:00:00"]


# With the real timer and the real clock.


@pytest.fixture
def schedules(tmp_path: Path) -> Iterator[Schedules]:
    db = open_database(f"sqlite:///{tmp_path}/executions.db")
    schedules = Schedules(ScheduleSettings(), db)
    yield schedules
    schedules.close()
    db.dispose()


def often(name: str = "often", **more: Any) -> Schedule:
    return schedule("1s", "interval", name, config={"overlap": "allow"}, **more)


def test_the_timer_runs_what_is_due(schedules: Schedules, queue: Queue) -> None:
    schedules.register("f", (often(), schedule("@yearly", name="seldom")))
    schedules.start(queue.submit, queue.executions.get)
    wait_until(lambda: len(queue.calls) >= 3)
    assert {call.caller for call in queue.calls} == {"schedule:often"}
    assert len(set(queue.run_times)) == len(queue.run_times)


def test_what_fails_is_tried_again(
    schedules: Schedules, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sandbox.server.events.schedules.RETRY_AFTER", 0.1)
    failures: list[int] = []

    def submit(call: Call) -> Execution:
        if len(failures) < 3:
            failures.append(1)
            raise (
                RuntimeError("a defect")
                if len(failures) == 1
                else OverloadedError("full", retry_after=1.0)
            )
        return queue.submit(call)

    schedules.register("f", (often(),))
    schedules.start(submit, queue.executions.get)
    wait_until(lambda: len(queue.calls) >= 2)
    assert len(failures) == 3


def test_a_reload_changes_adds_and_removes_and_leaves_the_others(
    schedules: Schedules, queue: Queue
) -> None:
    stays = schedule("@yearly", name="stays")
    schedules.register("f", (stays, often("goes"), often("changes", input={"a": 1})))
    schedules.register("g", (often("of g"),))
    schedules.start(queue.submit, queue.executions.get)
    wait_until(lambda: {"goes", "changes", "of g"} <= names_of(queue))
    (before,) = [item for item in schedules.next_checks() if item[1] == "stays"]
    schedules.register("f", (stays, often("changes", input={"a": 2}), often("new")))
    schedules.unregister("g")
    wait_until(lambda: "new" in names_of(queue))
    # What was on its way when it was removed has come by now; then only these come.
    queue.calls.clear()
    wait_until(lambda: len(queue.calls) >= 4)
    assert names_of(queue) == {"changes", "new"}
    assert {call.input["a"] for call in queue.calls if "a" in call.input} == {2}
    assert before in schedules.next_checks()


def names_of(queue: Queue) -> set[str]:
    return {call.input["_schedule"]["name"] for call in queue.calls}


def test_schedules_that_are_switched_off_do_not_run(tmp_path: Path, queue: Queue) -> None:
    db = open_database(f"sqlite:///{tmp_path}/executions.db")
    schedules = Schedules(ScheduleSettings(enabled=False), db)
    schedules.register("f", (often(),))
    schedules.start(queue.submit, queue.executions.get)
    assert schedules.next_checks() == []
    schedules.close()
    db.dispose()


def test_a_config_that_cannot_be_used_is_told(schedules: Schedules) -> None:
    bad = schedule(name="bad", config={"overlap": "maybe"})
    odd = schedule("10ms", "interval", name="odd", config={"max_retries": 3})
    told = schedules.register("f", (bad, odd))
    assert [remark.partition(":")[0] for remark in told] == [
        "the schedule 'bad' does not run",
        "the schedule 'odd'",
        "the schedule 'odd'",
    ]
    assert "config.overlap" in told[0]
    assert "config.max_retries is not used" in told[1]
    assert "every second" in told[2]
