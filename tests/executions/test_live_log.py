from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING

from sandbox.executions.live_log import LiveLog
from sandbox.executions.log_follower import Follower
from sandbox.executions.model import Execution
from sandbox.models import LogEntry

if TYPE_CHECKING:
    from collections.abc import Iterator

RUNNING = Execution(
    id="one",
    function="f",
    caller="me",
    trigger="http",
    status="running",
    attempts=1,
    created_at=1.0,
)
ENDED = replace(RUNNING, status="succeeded", ended_at=2.0, log_tail="- info from the tail")


class Source:
    """Knows one execution, and its log while it runs."""

    def __init__(self, execution: Execution | None, log: LiveLog | None = None) -> None:
        self.execution = execution
        self.log = log

    def live_log(self, id: str) -> LiveLog | None:
        return self.log

    def get(self, id: str) -> Execution | None:
        return self.execution

    def end(self) -> None:
        """As a dispatcher does: on record first, then no longer live, then closed."""
        assert self.log is not None
        self.execution, log, self.log = ENDED, self.log, None
        log.close()


def messages(follower: Iterator[LogEntry | Execution]) -> list[str]:
    return [item.message if isinstance(item, LogEntry) else item.status for item in follower]


def test_the_log_so_far_then_live_then_the_end() -> None:
    source = Source(RUNNING, LiveLog())
    assert source.log is not None
    source.log.add(LogEntry(message="before"))
    follower = Follower(source, "one")
    assert messages([next(follower)]) == ["before"]
    seen: list[str] = []
    reader = threading.Thread(target=lambda: seen.extend(messages(follower)), daemon=True)
    reader.start()
    source.log.add(LogEntry(message="live"))
    source.end()
    reader.join(10)
    assert seen == ["live", "succeeded"]


def test_one_that_has_ended_gives_its_tail() -> None:
    assert messages(Follower(Source(ENDED), "one")) == ["from the tail", "succeeded"]


def test_one_that_nobody_knows_gives_nothing() -> None:
    assert messages(Follower(Source(None), "one")) == []


def test_one_that_waits_is_followed_from_when_it_begins() -> None:
    source = Source(replace(RUNNING, status="queued", attempts=0))
    follower = Follower(source, "one")
    log = LiveLog()
    log.add(LogEntry(message="first"))
    begin = threading.Timer(0.05, lambda: setattr(source, "log", log))
    begin.start()
    assert messages([next(follower)]) == ["first"]
    begin.join()
    source.end()
    assert messages(follower) == ["succeeded"]


def test_an_attempt_that_nobody_saw_live_is_told_from_its_tail() -> None:
    source = Source(RUNNING, LiveLog())
    assert source.log is not None
    source.log.add(LogEntry(message="attempt one"))
    follower = Follower(source, "one")
    assert messages([next(follower)]) == ["attempt one"]
    source.end()
    source.execution = replace(ENDED, attempts=2)
    assert messages(follower) == ["from the tail", "succeeded"]


def test_memory_is_bounded_and_a_slow_follower_is_told_what_it_missed() -> None:
    source = Source(RUNNING, LiveLog(most_entries=10))
    assert source.log is not None
    follower = Follower(source, "one")
    source.log.add(LogEntry(message="first"))
    assert messages([next(follower)]) == ["first"]
    for number in range(100):
        source.log.add(LogEntry(message=str(number)))
    assert len(source.log.entries()) == 10
    source.end()
    told = messages(follower)
    assert told[0].startswith("90 log entries were left out")
    assert told[1:] == [*map(str, range(90, 100)), "succeeded"]


def test_large_entries_are_bounded_by_their_size() -> None:
    log = LiveLog(most_bytes=1000)
    for _ in range(100):
        log.add(LogEntry(message="x" * 400, data={"more": "y" * 50}))
    assert len(log.entries()) == 2
    log.add(LogEntry(message="z" * 5000))
    assert log.entries() == []


def test_close_ends_a_follower_that_waits_in_another_thread() -> None:
    for source in (Source(RUNNING, LiveLog()), Source(replace(RUNNING, status="queued"))):
        follower = Follower(source, "one")
        ended = threading.Event()

        def read(follower: Follower = follower, ended: threading.Event = ended) -> None:
            assert messages(follower) == []
            ended.set()

        threading.Thread(target=read, daemon=True).start()
        assert not ended.wait(0.05)
        follower.close()
        assert ended.wait(10)
